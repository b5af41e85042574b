#include "layers/routers/query_norm.h"

#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "layers/routers/choose.h"

namespace sluice {
namespace {

/// Added to the squared norm, whose root has no slope at 0, and to the variance of norms that are all
/// alike.
constexpr double kEpsilon = 1e-12;

}  // namespace

Tensor query_norms(Tape& tape, const Tensor& q, int64_t R) {
  const int64_t tokens = q.dim(0);
  const int64_t width = q.dim(2);
  const Tensor flat = reshape(tape, q, {tokens, q.dim(1) * width});
  const Tensor routed = slice_columns(tape, flat, (q.dim(1) - R) * width, q.dim(1) * width);
  const Tensor squares = sum_last(tape, square(tape, reshape(tape, routed, {tokens, R, width})));
  return sqrt(tape, add_constant(tape, squares, kEpsilon));
}

Tensor straight_through(Tape& tape, const Tensor& p, const Selection& selection) {
  const Tensor ones =
      add_constant(tape, tape.zeros({selection.tokens, selection.top_k}, p.dtype()), 1.0);
  const Tensor chosen = scatter_last(tape, ones, expert_index(tape.pool(), selection), p.dim(1));
  // p - p is exactly 0.
  return add(tape, chosen, sub(tape, p, stop_gradient(tape, p)));
}

RouterScores QueryNormRouter::score(const ForwardContext& context, const Tensor& x) const {
  Tape& tape = context.tape;
  const int64_t heads = x.dim(1);
  const double factor = std::sqrt(static_cast<double>(heads - 1) / static_cast<double>(heads));
  const Tensor zeros = tape.zeros({heads}, x.dtype());
  const Tensor logits = layer_norm(tape, x, add_constant(tape, zeros, factor), zeros, kEpsilon);
  const Tensor p = softmax(tape, logits);
  return {logits, p, p};
}

void QueryNormRouter::choose(const ForwardContext& /*context*/, const RouterScores& scores,
                             std::span<const double> shift, int64_t top_k,
                             Selection& selection) const {
  choose_top_k(scores.scores, shift, top_k, selection);
}

Tensor QueryNormRouter::combine_weights(const ForwardContext& context, const RouterScores& scores,
                                        const Selection& selection) const {
  return gather_last(context.tape, scores.scores, expert_index(context.tape.pool(), selection));
}

}  // namespace sluice
