#pragma once
// AdamW line by line as in its algorithm, with the same roundings as the fused pass.

#include <cmath>

#include "autograd/kernels/adamw_update.h"

namespace sluice::kernels::reference {

template <class T>
void adamw_update(int64_t n, const AdamWStep& step, const T* grad, const AdamWState<T>& state) {
  const double correction1 = 1.0 - std::pow(step.beta1, static_cast<double>(step.t));
  const double correction2 = 1.0 - std::pow(step.beta2, static_cast<double>(step.t));
  for (int64_t i = 0; i < n; ++i) {
    const T g = static_cast<T>(step.gradient_scale) * grad[i];
    state.m[i] =
        std::fma(static_cast<T>(step.beta1), state.m[i], static_cast<T>(1.0 - step.beta1) * g);
    state.v[i] =
        std::fma(static_cast<T>(step.beta2), state.v[i], static_cast<T>(1.0 - step.beta2) * g * g);
    const T root = std::sqrt(state.v[i]) / static_cast<T>(std::sqrt(correction2));
    const T update = static_cast<T>(step.learning_rate / correction1) * state.m[i] /
                     (root + static_cast<T>(step.epsilon));
    state.value[i] =
        std::fma(state.value[i],
                 static_cast<T>(std::fma(-step.learning_rate, step.weight_decay, 1.0)), -update);
  }
}

}  // namespace sluice::kernels::reference
