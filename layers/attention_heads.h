#pragma once
// Heads of attention: from tokens to queries, keys and values, and from what was mixed back. What the
// queries see is the mixer's business.
//
// Order: project, bias, QK-norm, rotate (mixers/attention.h cites the papers).
//
// Letters: N tokens, D hidden size, H query heads, K key/value heads, P head width.

#include <memory>
#include <optional>
#include <string>

#include "autograd/ops/causal_attention.h"
#include "autograd/support/fields.h"
#include "layers/linear.h"

namespace sluice {

struct ModelConfig;

/// The heads' part of a section.
struct AttentionHeadsConfig : Configurable {
  int64_t num_heads = 8;
  std::optional<int64_t> num_kv_heads;  // auto: num_heads
  std::optional<int64_t> head_dim;      // auto: hidden_size / num_heads
  std::optional<double> rope_theta = 10000.0;
  std::string rope_layout = "half_split";
  std::shared_ptr<Configurable> rope_scaling;  // RopeScalingConfig, or null
  int64_t max_position_embeddings = 8192;
  std::string qk_norm = "none";
  std::string bias = "none";
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;

  [[nodiscard]] int64_t kv_heads() const { return num_kv_heads.value_or(num_heads); }
};

/// For MixerEntry::check: heads whose width follows from the hidden size must divide it.
[[nodiscard]] std::string check_head_width(const ModelConfig& model, const Configurable& section);
/// For MixerEntry::longest_document: what the table of angles holds.
[[nodiscard]] std::optional<int64_t> longest_rotated_document(const Configurable& section);

class AttentionHeads : public Module {
 public:
  /// Parameters: "<path>.w_q", "w_k", "w_v", "w_o", their biases "b_...", "q_norm" and "k_norm".
  AttentionHeads(const Builder& b, const ModelConfig& model, const AttentionHeadsConfig& config);

  struct Projections {
    Tensor q;  // [N, H, P]
    Tensor k;  // [N, K, P]
    Tensor v;  // [N, K, P]
  };
  /// Of x [N, D]; rotated when it `turns` here.
  [[nodiscard]] virtual Projections project(const ForwardContext& context, const Tensor& x,
                                            bool turns) const;
  /// The queries of project() alone [N, H, P].
  [[nodiscard]] Tensor queries(const ForwardContext& context, const Tensor& x, bool turns) const;
  /// For attention that rotates as it reads; without positions where nothing turns.
  [[nodiscard]] AttentionRope rope(const ForwardContext& context) const;
  /// mixed [N, H, P] -> [N, D]
  [[nodiscard]] virtual Tensor output(const ForwardContext& context, const Tensor& mixed) const;

  /// P^(-1/2)
  [[nodiscard]] double scale() const;
  [[nodiscard]] int64_t heads() const { return heads_; }
  [[nodiscard]] int64_t kv_heads() const { return kv_heads_; }
  [[nodiscard]] int64_t head_dim() const { return head_dim_; }

 protected:
  struct WithoutParameters {};
  /// For heads that project otherwise.
  AttentionHeads(WithoutParameters, const Builder& b, const ModelConfig& model,
                 const AttentionHeadsConfig& config);
  /// [N, heads * P] -> [N, heads, P]
  [[nodiscard]] Tensor split_heads(const ForwardContext& context, const Tensor& x,
                                   int64_t heads) const;
  /// x [N, heads, P], rotated when it `turns` here.
  [[nodiscard]] Tensor turned(const ForwardContext& context, const Tensor& x, bool turns) const;

 private:
  [[nodiscard]] Tensor prepare(const ForwardContext& context, Tensor x, int64_t heads,
                               Parameter* norm, bool turns) const;

  int64_t heads_;
  int64_t kv_heads_;
  int64_t head_dim_;
  double norm_eps_;
  bool full_norm_;
  RopeLayout layout_;
  RopeTable table_;
  Linear* q_ = nullptr;
  Linear* k_ = nullptr;
  Linear* v_ = nullptr;
  Linear* o_ = nullptr;
  Parameter* q_norm_ = nullptr;
  Parameter* k_norm_ = nullptr;
};

}  // namespace sluice
