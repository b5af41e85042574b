#pragma once
// From a batch of sequences to what a model reads, and cutting one batch into several.

#include <cstdint>
#include <vector>

#include "data/batch.h"
#include "layers/sequence_layout.h"

namespace sluice {

/// N tokens in memory of a pool. Must outlive the forward and backward passes that read it.
struct ModelInput {
  SequenceLayout layout;
  Tensor tokens;   // [N] i32
  Tensor targets;  // [N] i32, kIgnoredTarget where there is no loss

  /// Gives the tensors back to the pool; the lists keep their memory for the next batch.
  void release_tensors();
};

/// Tokens whose target is ignored are not counted in loads and balancing losses. With two passes the
/// same text twice, as one batch: its second half has global samples of its own, so that whatever a
/// pass draws at random it draws independently.
[[nodiscard]] ModelInput make_model_input(Pool& pool, const Batch& batch, int64_t passes = 1);
/// The same, into `input`, whose memory is reused.
void make_model_input(Pool& pool, const Batch& batch, int64_t passes, ModelInput& input);

/// Cuts `batch` into micro-batches of whole sequences, in order, each of at most `max_tokens`
/// tokens; a longer sequence is a micro-batch of its own. An empty batch gives none.
[[nodiscard]] std::vector<Batch> split_into_micro_batches(const Batch& batch, int64_t max_tokens);
/// The same, into `parts`, whose memory is reused.
void split_into_micro_batches(const Batch& batch, int64_t max_tokens, std::vector<Batch>& parts);

}  // namespace sluice
