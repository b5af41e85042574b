#pragma once
// A method's losses as a function of the logits: value, gradient, and that gradient against
// differences. The selection is made once, so that differences do not move it.

#include <gtest/gtest.h>

#include "autograd/core/gradcheck.h"
#include "tests/balance/routed_batch.h"

namespace sluice::testing {

struct LossAndGradient {
  double value;
  std::vector<double> gradient;  // with respect to the logits [N, E], row by row
};

/// Of the losses of `balancer` on logits z [N, E] in f64.
[[nodiscard]] inline LossAndGradient loss_of(Pool& pool, Balancer& balancer, const Tensor& z,
                                             const SequenceLayout& layout,
                                             RoutedBatchOptions options) {
  Tape tape(pool);
  const Tensor input = tape.input(z);
  const RoutedBatch batch(tape, input, layout, options);
  const Tensor loss = batch.loss(tape, balancer, batch.route(balancer));
  tape.backward(loss);
  const Tensor gradient = tape.gradient(input);
  const auto values = gradient.span<double>();
  return {loss.item(), {values.begin(), values.end()}};
}

inline void expect_loss_gradient(Pool& pool, Balancer& balancer, const Tensor& z,
                                 const SequenceLayout& layout, RoutedBatchOptions options) {
  Selection selection;
  {
    Tape tape(pool);
    selection = RoutedBatch(tape, z, layout, options).route(balancer);
  }
  const OpSample sample{.label = "loss",
                        .inputs = {z},
                        .differentiable = {true},
                        .apply = [&](Tape& tape, std::span<const Tensor> inputs) {
                          const RoutedBatch batch(tape, inputs[0], layout, options);
                          return std::vector<Tensor>{batch.loss(tape, balancer, selection)};
                        }};
  const GradcheckReport report = gradcheck(pool, sample);
  EXPECT_TRUE(report.passed) << report.message;
}

/// Two sequences of 3 and 5 tokens, the second token without a loss.
[[nodiscard]] inline SequenceLayout masked_layout() {
  SequenceLayout layout = layout_of({3, 5});
  layout.counted[1] = 0;
  return layout;
}

/// Of every score function, on random logits of 8 tokens for 4 experts, k = 2, a micro-batch that
/// is 7 of 20 counted tokens and 2 of 5 sequences.
inline void expect_loss_gradients(Pool& pool, Balancer& balancer) {
  SampleFactory factory(pool, DType::f64);
  const Tensor z = factory.uniform({8, 4}, -2.0, 2.0);
  for (const ScoreFunction scores : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
    expect_loss_gradient(pool, balancer, z, masked_layout(),
                         {.top_k = 2, .scores = scores, .valid_tokens = 20, .global_sequences = 5});
  }
}

}  // namespace sluice::testing
