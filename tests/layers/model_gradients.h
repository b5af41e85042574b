#pragma once
// The gradient check of a whole model.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/tiny_model.h"

namespace sluice::testing_support {

/// Three elements of every trainable parameter against central differences of the
/// loss, auxiliary ones included, on two packed documents. `config` is in f64 and has nothing random.
inline void expect_model_gradients(const ModelConfig& config, double step = 1e-5) {
  Pool pool;
  const Model model(pool, config, 1);
  const TinyBatch batch = tiny_batch(pool, {{6, 5}});
  zero_grads(model, pool);
  {
    Tape tape(pool);
    RoutingSession session = plain_session(model);
    tape.backward(
        model.loss(training_context(tape, batch, session), batch.tokens, batch.targets).total);
  }
  for (Parameter* parameter : model.parameters()) {
    if (!parameter->trainable) continue;
    parameter->materialise_grad();
    double* x = parameter->value.data<double>();
    for (int64_t i = 0; i < parameter->value.numel();
         i += std::max<int64_t>(1, parameter->value.numel() / 3)) {
      const double original = x[i];
      const auto loss_at = [&](double value) {
        x[i] = value;
        Tape tape(pool);
        const NoGrad no_grad(tape);
        RoutingSession session = plain_session(model);
        const ForwardContext context = training_context(tape, batch, session);
        return model.loss(context, batch.tokens, batch.targets).total.item();
      };
      const double numeric = (loss_at(original + step) - loss_at(original - step)) / (2 * step);
      x[i] = original;
      EXPECT_NEAR(element(parameter->grad, i), numeric, 1e-8 + 1e-6 * std::abs(numeric))
          << parameter->name << " " << i;
    }
  }
}

}  // namespace sluice::testing_support
