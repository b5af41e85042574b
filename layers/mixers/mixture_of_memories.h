#pragma once
// MoM, mixture of memories (Du et al. 2025, "MoM: Linear Sequence Modeling with Mixture-of-Memories"):
// every token writes to and reads k of M memories, and a shared one where there is.
//
// The tokens that a document sends to a memory form a sub-sequence, in order, through which the short
// convolution and the memory's update run; a memory that a token does not use stays as it is, decay
// included. o_t = sum_m gamma_tm o^m_t + o^shared_t, then norm, gate and output projection. Each memory
// has its own keys, values and gates (or all have the same: single_kv_proj); queries, convolutions,
// A_log, dt_bias and what follows are common. A memory is a matrix per head or, with the backend
// gated_slot_attention, slots (matrix_memory.h). Who goes where is the business of layers/routed_layer.h;
// published: softmax over memories, top 2 of 4, renormalised, and the Switch loss with weight 0.01.
//
// Letters: N tokens, R routed rows, M memories.

#include <memory>
#include <string>
#include <vector>

#include "layers/matrix_memory.h"
#include "layers/routed_layer.h"
#include "layers/sublayer.h"

namespace sluice {

enum class MemoryBackend : uint8_t {
  gated_delta_rule,
  gated_linear_attention,
  gated_slot_attention,
  linear_attention
};

/// `model.mixture_of_memories` of a recipe.
struct MixtureOfMemoriesConfig final : RoutingConfig {
  MixtureOfMemoriesConfig();
  MemoryHeadsConfig heads;
  StepSizeConfig step_size;
  MemoryBackend backend = MemoryBackend::gated_delta_rule;
  int64_t num_slots = 64;
  bool shared_memory = true;
  bool single_kv_proj = false;
  double capacity = 1.0;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

/// What decoding keeps of one sequence.
class MixtureOfMemoriesState final : public MixerState {
 public:
  [[nodiscard]] int64_t length() const override { return tokens; }

  std::vector<MatrixMemoryState> memories;  // [M]
  MatrixMemoryState shared;                 // undefined tensors without a shared memory
  std::unique_ptr<FeedForwardState> router;
  int64_t tokens = 0;
};

}  // namespace sluice
