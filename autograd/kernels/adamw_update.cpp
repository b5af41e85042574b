#include "autograd/kernels/adamw_update.h"

#include <cmath>

#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

/// One block, with the coefficients in T. Pointers never overlap.
template <class T>
void update_block(int64_t n, const AdamWStep& step, const T* grad, const AdamWState<T>& state) {
  const auto t = static_cast<double>(step.t);
  const T keep = static_cast<T>(std::fma(-step.learning_rate, step.weight_decay, 1.0));
  const T beta1 = static_cast<T>(step.beta1);
  const T beta2 = static_cast<T>(step.beta2);
  const T one_minus_beta1 = static_cast<T>(1.0 - step.beta1);
  const T one_minus_beta2 = static_cast<T>(1.0 - step.beta2);
  const T rate = static_cast<T>(step.learning_rate / (1.0 - std::pow(step.beta1, t)));
  const T root_correction = static_cast<T>(std::sqrt(1.0 - std::pow(step.beta2, t)));
  const T epsilon = static_cast<T>(step.epsilon);
  const T gradient_scale = static_cast<T>(step.gradient_scale);
  T* __restrict value = state.value;
  T* __restrict first = state.m;
  T* __restrict second = state.v;
  for (int64_t i = 0; i < n; ++i) {
    const T g = gradient_scale * grad[i];
    const T m = std::fma(beta1, first[i], one_minus_beta1 * g);
    const T v = std::fma(beta2, second[i], one_minus_beta2 * g * g);
    const T denominator = std::sqrt(v) / root_correction + epsilon;
    first[i] = m;
    second[i] = v;
    value[i] = std::fma(value[i], keep, -(rate * m / denominator));
  }
}

}  // namespace

template <class T>
void adamw_update(int64_t n, const AdamWStep& step, const T* grad, const AdamWState<T>& state) {
  parallel_for_ranges(n, kElementBlock, [&](int64_t begin, int64_t end) {
    update_block(end - begin, step, grad + begin,
                 AdamWState<T>{state.value + begin, state.m + begin, state.v + begin});
  });
}

template void adamw_update(int64_t, const AdamWStep&, const float*, const AdamWState<float>&);
template void adamw_update(int64_t, const AdamWStep&, const double*, const AdamWState<double>&);

}  // namespace sluice::kernels
