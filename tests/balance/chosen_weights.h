#pragma once
// What a method that sets combine weights of its own gives, and whether their gradient is right.

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "autograd/core/gradcheck.h"
#include "tests/balance/routed_batch.h"

namespace sluice::testing {

/// The combine weights [N, slots] of `selection`, as doubles; empty when the router's apply.
[[nodiscard]] inline std::vector<double> weights_of(Tape& tape, const RoutedBatch& batch,
                                                    Balancer& balancer,
                                                    const Selection& selection) {
  const Tensor weights = balancer.combine_weights(tape, batch.input(), selection);
  if (!weights.defined()) return {};
  return dispatch_float(weights.dtype(), [&]<class T>() {
    const auto values = weights.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

/// Checks the gradient of the weights with respect to logits `z` (f64) at the selection made there.
inline void expect_weight_gradient(Pool& pool, const Tensor& z, const SequenceLayout& layout,
                                   RoutedBatchOptions options, Balancer& balancer) {
  Selection selection;
  {
    Tape tape(pool);
    const NoGrad no_grad(tape);
    selection = RoutedBatch(tape, z, layout, options).route(balancer);
  }
  const OpSample sample{
      .label = "combine weights",
      .inputs = {z},
      .differentiable = {true},
      .apply = [&](Tape& tape, std::span<const Tensor> inputs) {
        const RoutedBatch batch(tape, inputs[0], layout, options);
        return std::vector<Tensor>{balancer.combine_weights(tape, batch.input(), selection)};
      }};
  const GradcheckReport report = gradcheck(pool, sample);
  EXPECT_TRUE(report.passed) << report.message;
}

/// The largest load over the mean, less 1.
[[nodiscard]] inline double max_vio(const Selection& selection) {
  int64_t largest = 0;
  int64_t total = 0;
  for (const int64_t count : selection.load) {
    largest = std::max(largest, count);
    total += count;
  }
  return static_cast<double>(largest) * static_cast<double>(selection.load.size()) /
             static_cast<double>(total) -
         1.0;
}

/// The layout with every third token, from the first on, without a loss.
[[nodiscard]] inline SequenceLayout with_uncounted(SequenceLayout layout) {
  for (size_t t = 0; t < layout.counted.size(); t += 3) layout.counted[t] = 0;
  return layout;
}

/// The rows of z [N, E] (f64) that `layout` counts.
[[nodiscard]] inline Tensor counted_rows(Pool& pool, const Tensor& z,
                                         const SequenceLayout& layout) {
  std::vector<double> rows;
  const auto values = z.span<double>();
  const auto experts = static_cast<size_t>(z.dim(1));
  for (size_t t = 0; t < layout.counted.size(); ++t) {
    if (layout.counted[t] == 0) continue;
    const auto row = values.subspan(t * experts, experts);
    rows.insert(rows.end(), row.begin(), row.end());
  }
  return Tensor::of<double>(pool, {layout.counted_tokens(), z.dim(1)}, rows);
}

/// Tokens without a loss do not change the route of the others: `selection` of all of `layout`
/// holds `counted`, the selection of its counted tokens alone, when both have the same slots.
inline void expect_same_counted_routes(const Selection& selection, const Selection& counted,
                                       const SequenceLayout& layout) {
  size_t next = 0;
  for (size_t t = 0; t < layout.counted.size(); ++t) {
    if (layout.counted[t] == 0) continue;
    for (int64_t slot = 0; slot < std::max(selection.top_k, counted.top_k); ++slot) {
      const auto at = [&](const Selection& of, size_t token) {
        return slot < of.top_k
                   ? of.expert[token * static_cast<size_t>(of.top_k) + static_cast<size_t>(slot)]
                   : kNoExpert;
      };
      EXPECT_EQ(at(selection, t), at(counted, next)) << "token " << t;
    }
    ++next;
  }
}

/// Normal logits with a slope over the experts.
[[nodiscard]] inline Tensor skewed_logits(Pool& pool, int64_t tokens, int64_t experts,
                                          uint64_t seed = 1) {
  SampleFactory factory(pool, DType::f64, seed);
  Tensor z = factory.uniform({tokens, experts}, -1.0, 1.0);
  for (int64_t i = 0; i < z.numel(); ++i) {
    z.data<double>()[i] -= 0.3 * static_cast<double>(i % experts);
  }
  return z;
}

}  // namespace sluice::testing
