#include "layers/routers/mixed_scores.h"

#include "autograd/ops/softmax.h"
#include "layers/row_cache.h"

namespace sluice {
namespace {

/// As of a sigmoid router's own probabilities.
constexpr double kRowSumEpsilon = 1e-20;

/// Scores, and what a subclass keeps, of the tokens so far.
struct MixedScoresState final : FeedForwardState {
  MixedScoresState(Pool& pool, DType dtype, int64_t capacity, int64_t experts, int64_t kept_width)
      : scores(pool, {capacity, experts}, dtype), kept(pool, {capacity, kept_width}, dtype) {}
  RowCache scores;  // [capacity, E]
  RowCache kept;    // [capacity, W]
};

MixedScoresState* memory_of(const ForwardContext& context) {
  return dynamic_cast<MixedScoresState*>(context.memory);
}

}  // namespace

void MixedScoresConfig::fields(FieldVisitor& v) {
  TopKRouterConfig::fields(v);
  v.boolean({"detach", "no gradient through the map S, only through the scores that it mixes"},
            detach);
}

std::string MixedScoresConfig::check() const {
  if (weights == "softmax_after") {
    return "weights: found softmax_after, allowed renormalise or as_is (mixed scores have no "
           "logits)";
  }
  return TopKRouterConfig::check();
}

MixedScoresRouter::MixedScoresRouter(const Builder& b, const RouterSetup& setup,
                                     const MixedScoresConfig& config)
    : TopKRouter(b, setup, config), has_softmax_scores_(config.scores == "softmax") {}

std::unique_ptr<FeedForwardState> MixedScoresRouter::make_state(Pool& pool, DType dtype,
                                                                int64_t capacity) const {
  return std::make_unique<MixedScoresState>(pool, dtype, capacity, weight_.value.dim(0),
                                            kept_width());
}

Tensor MixedScoresRouter::with_earlier(const ForwardContext& context, const Tensor& rows) {
  MixedScoresState* memory = memory_of(context);
  if (memory == nullptr) return rows;
  memory->kept.append(rows);
  return memory->kept.filled(context.tape.pool());
}

RouterScores MixedScoresRouter::score(const ForwardContext& context, const Tensor& x) const {
  Tape& tape = context.tape;
  const RouterScores own = TopKRouter::score(context, x);
  Tensor rows = own.scores;
  if (MixedScoresState* memory = memory_of(context); memory != nullptr) {
    memory->scores.append(rows);
    rows = memory->scores.filled(tape.pool());
  }
  const Tensor mixed = attend_rows(context, map_of(context, x), rows);
  return {own.logits, mixed,
          has_softmax_scores_ ? mixed : normalise_rows(tape, mixed, kRowSumEpsilon)};
}

}  // namespace sluice
