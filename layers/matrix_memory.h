#pragma once
// What linear attention, the gated delta net and the mixture of memories have in common: heads that
// write to matrices by keys and read them by queries (ops/gated_delta_rule.h has the recurrence), from
// the projections of the tokens to what the layer adds to the residual stream.
//
// Order: project; short causal convolution with SiLU on q, k and v (Yang, Kautz and Hatamizadeh 2024);
// feature map of q and k; memory; per-head RMSNorm, times silu(gate); output projection. The log-decay
// is g = -e^A_log softplus(a + dt_bias), the writing strength sigmoid(b), one of each per head. Gated
// slot attention (ops/gated_slot_attention.h) has M slots in the matrix's place, each with a gate of its
// own, sigmoid(a)^(1 / 8) as its authors have it, and reads by a softmax over them.
//
// Letters: N tokens, R rows (tokens, or what was routed of them), D hidden size, H heads, K key
// width, V value width, M slots.

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "layers/context.h"
#include "layers/module.h"
#include "layers/step_size.h"

namespace sluice {

class CausalConvolution;
class Linear;
class MatrixMemory;

/// The heads of a section; part of it.
struct MemoryHeadsConfig {
  int64_t num_heads = 4;
  std::optional<int64_t> head_dim;  // auto: hidden_size / num_heads
  double expand_v = 1.0;
  std::optional<int64_t> conv_kernel = 4;
  bool output_gate = true;

  void fields(FieldVisitor& v);
  /// A rule between these and the model: "" or one sentence that starts with a key.
  [[nodiscard]] std::string check(int64_t hidden_size) const;
  [[nodiscard]] int64_t key_dim(int64_t hidden_size) const {
    return head_dim.value_or(hidden_size / num_heads);
  }
  [[nodiscard]] int64_t value_dim(int64_t hidden_size) const;
};

/// What a token writes: the part of its value that its key does not bring back yet, or all of it; or its
/// key and value into slots.
enum class MemoryUpdate : uint8_t { delta, sum, slots };

enum class FeatureMap : uint8_t {
  identity,
  unit_length,   // x / (|x|^2 + 1e-6)^(1/2)
  elu_plus_one,  // Katharopoulos et al. 2020
  hadamard       // (W1 x) * (W2 x), element by element, [K, K] each, for q and for k
};

struct MatrixMemorySettings {
  MemoryHeadsConfig heads;
  StepSizeConfig step_size;  // of the decay's bias
  MemoryUpdate update = MemoryUpdate::delta;
  FeatureMap feature_map = FeatureMap::unit_length;
  bool has_decay = true;
  bool has_beta = true;
  int64_t num_slots = 0;        // M of MemoryUpdate::slots, which has neither decay nor beta
  bool normalises = false;      // o = S^T q / (z^T q), z the sum of keys, decayed as S
  bool has_output_norm = true;  // per head
  bool has_silu = true;         // on q, k and v also where there is no convolution
};

/// What rows write, as projected.
struct MemoryWrites {
  Tensor k;  // [R, H K]
  Tensor v;  // [R, H V]
  Tensor a;  // [R, H], with slots [R, H M]; undefined without gates
  Tensor b;  // [R, H]; undefined without writing strengths
};

/// Projections of tokens to what they write: w_k, w_v and, where the memory wants them, w_a and w_b.
class WriteProjections : public Module {
 public:
  WriteProjections(const Builder& b, int64_t hidden_size, const MatrixMemory& memory);
  /// x [N, D] -> of every token
  [[nodiscard]] MemoryWrites writes(const ForwardContext& context, const Tensor& x) const;

 private:
  Linear* k_;
  Linear* v_;
  Linear* a_ = nullptr;
  Linear* b_ = nullptr;
};

/// What decoding keeps of one memory, whatever the number of tokens.
struct MatrixMemoryState {
  Tensor q_history;  // [conv_kernel - 1, H K]; undefined without a convolution
  Tensor k_history;
  Tensor v_history;  // [conv_kernel - 1, H V]
  Tensor memory;     // [H, K, V], one column more where the layer normalises; [H, M, K + V]
};

/// Everything but the projections to keys, values and gates, which a mixture has several of.
/// Parameters: w_q, w_o, w_gate, A_log [H], dt_bias [H], norm [V], those of the convolutions "q_conv",
/// "k_conv", "v_conv", and of the feature map, each where the settings want it.
class MatrixMemory : public Module {
 public:
  MatrixMemory(const Builder& b, int64_t hidden_size, double eps,
               const MatrixMemorySettings& settings);

  /// x [N, D] -> [N, H K]
  [[nodiscard]] Tensor queries(const ForwardContext& context, const Tensor& x) const;
  /// Rows q [R, H K] read, and write, a memory for each range of `offsets` [G + 1], which must live
  /// until the backward has run -> [R, H V].
  [[nodiscard]] Tensor recall(const ForwardContext& context, const Tensor& q,
                              const MemoryWrites& writes, std::span<const int64_t> offsets) const;
  /// The same of the next rows of one memory, which moves on. Never records.
  [[nodiscard]] Tensor recall_next(const ForwardContext& context, const Tensor& q,
                                   const MemoryWrites& writes, MatrixMemoryState& state) const;
  /// o [N, H V], and x [N, D] for the gate -> [N, D]
  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& x,
                              const Tensor& o) const;

  [[nodiscard]] MatrixMemoryState make_state(Pool& pool, DType dtype) const;

  [[nodiscard]] int64_t keys_width() const { return heads_ * key_dim_; }
  [[nodiscard]] int64_t values_width() const { return heads_ * value_dim_; }
  [[nodiscard]] int64_t heads() const { return heads_; }
  /// Numbers that a token gates with; 0 for none.
  [[nodiscard]] int64_t gates() const {
    return settings_.update == MemoryUpdate::slots ? heads_ * settings_.num_slots
           : settings_.has_decay                   ? heads_
                                                   : 0;
  }
  [[nodiscard]] bool has_beta() const { return settings_.has_beta; }

 private:
  /// What rows go through on the way to the memory: a whole pass, or the next tokens of a state.
  struct Passage {
    const ForwardContext& context;
    std::span<const int64_t> offsets;
    MatrixMemoryState* state = nullptr;
  };
  [[nodiscard]] Tensor recall(const Passage& passage, const Tensor& q,
                              const MemoryWrites& writes) const;
  [[nodiscard]] Tensor convolve(const Passage& passage, const CausalConvolution* convolution,
                                const Tensor& x, Tensor MatrixMemoryState::*history) const;
  [[nodiscard]] Tensor features(Tape& tape, const Tensor& x, const Linear* const (&maps)[2],
                                const ForwardContext& context) const;
  [[nodiscard]] Tensor log_decay(Tape& tape, const Tensor& a) const;
  [[nodiscard]] Tensor pass_slots(const Passage& passage, const Tensor& q, const Tensor& k,
                                  const Tensor& v, const Tensor& a) const;
  [[nodiscard]] Tensor with_ones(Tape& tape, const Tensor& v) const;
  [[nodiscard]] Tensor normalised(Tape& tape, const Tensor& o) const;
  [[nodiscard]] int64_t memory_columns() const {
    return value_dim_ + (settings_.normalises ? 1 : 0);
  }

  MatrixMemorySettings settings_;
  int64_t heads_;
  int64_t key_dim_;
  int64_t value_dim_;
  double eps_;
  Tensor unit_;  // [K] of K^(-1/2): what makes an RMSNorm one to unit length
  Linear* q_;
  Linear* o_;
  Linear* gate_ = nullptr;
  Parameter* norm_ = nullptr;
  Parameter* A_log_ = nullptr;
  Parameter* dt_bias_ = nullptr;
  CausalConvolution* q_conv_ = nullptr;
  CausalConvolution* k_conv_ = nullptr;
  CausalConvolution* v_conv_ = nullptr;
  Linear* q_maps_[2] = {};
  Linear* k_maps_[2] = {};
};

}  // namespace sluice
