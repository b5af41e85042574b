#pragma once
// Small models and batches for tests.

#include <vector>

#include "layers/ffns/dense.h"
#include "layers/ffns/moe.h"
#include "layers/mixers/attention.h"
#include "layers/model.h"

namespace sluice::testing_support {

/// Hidden size 32, 4 heads of 8 with 2 key/value heads, feed-forward 48, 4 experts of 24 with
/// top-2, vocabulary 64; weights of standard deviation 0.2, so that routing and attention are far
/// from uniform.
[[nodiscard]] ModelConfig tiny_config(const std::string& pattern, const std::string& dtype = "f32");

inline AttentionConfig& attention_of(ModelConfig& config) {
  return dynamic_cast<AttentionConfig&>(config.section("attention"));
}
inline DenseConfig& dense_of(ModelConfig& config) {
  return dynamic_cast<DenseConfig&>(config.section("feed_forward"));
}
inline ExpertsConfig& experts_of(ModelConfig& config) {
  return dynamic_cast<ExpertsConfig&>(config.section("experts"));
}

struct TinyBatch {
  SequenceLayout layout;
  Tensor tokens;
  Tensor targets;
};

/// Random tokens; sequences[s] lists the lengths of sequence s's documents; the last token of a
/// document has no loss. The numbers of a document depend on its place in the whole list only, so
/// that slices of a batch agree with it.
[[nodiscard]] TinyBatch tiny_batch(Pool& pool, const std::vector<std::vector<int64_t>>& sequences,
                                   int64_t vocab = 64, uint64_t first_sample = 0);

/// A session whose balancers do nothing.
[[nodiscard]] RoutingSession plain_session(const Model& model);

/// A training context for a whole step of one micro-batch.
[[nodiscard]] ForwardContext training_context(Tape& tape, const TinyBatch& batch,
                                              RoutingSession& session,
                                              Recompute recompute = Recompute::none);

void zero_grads(const Model& model, Pool& pool);

[[nodiscard]] bool same_bits(const Tensor& a, const Tensor& b);
/// ||a - b|| / max(||b||, tiny)
[[nodiscard]] double relative_distance(const Tensor& a, const Tensor& b);
/// Element as double.
[[nodiscard]] double element(const Tensor& x, int64_t i);

}  // namespace sluice::testing_support
