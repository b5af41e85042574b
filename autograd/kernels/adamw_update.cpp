#include "autograd/kernels/adamw_update.h"

#include <cmath>

#include "autograd/kernels/parts.h"

namespace sluice::kernels {
namespace {

/// The step's numbers in T.
template <class T>
struct Coefficients {
  explicit Coefficients(const AdamWStep& step)
      : keep_decayed(static_cast<T>(std::fma(-step.learning_rate, step.weight_decay, 1.0))),
        beta1(static_cast<T>(step.beta1)),
        beta2(static_cast<T>(step.beta2)),
        one_minus_beta1(static_cast<T>(1.0 - step.beta1)),
        one_minus_beta2(static_cast<T>(1.0 - step.beta2)),
        rate(static_cast<T>(step.learning_rate /
                            (1.0 - std::pow(step.beta1, static_cast<double>(step.t))))),
        root_correction(
            static_cast<T>(std::sqrt(1.0 - std::pow(step.beta2, static_cast<double>(step.t))))),
        epsilon(static_cast<T>(step.epsilon)),
        gradient_scale(static_cast<T>(step.gradient_scale)) {}

  T keep_decayed;
  T beta1;
  T beta2;
  T one_minus_beta1;
  T one_minus_beta2;
  T rate;
  T root_correction;
  T epsilon;
  T gradient_scale;
};

/// One block, with gradient(i) before its scale. Pointers never overlap.
template <class T, class GradientOf>
void update_block(int64_t n, const Coefficients<T>& of_step, T keep, GradientOf&& gradient,
                  const AdamWState<T>& state) {
  const Coefficients<T> c = of_step;  // a copy that no store below can change
  T* __restrict value = state.value;
  T* __restrict first = state.m;
  T* __restrict second = state.v;
  for (int64_t i = 0; i < n; ++i) {
    const T g = c.gradient_scale * gradient(i);
    const T m = std::fma(c.beta1, first[i], c.one_minus_beta1 * g);
    const T v = std::fma(c.beta2, second[i], c.one_minus_beta2 * g * g);
    const T denominator = std::sqrt(v) / c.root_correction + c.epsilon;
    first[i] = m;
    second[i] = v;
    value[i] = std::fma(value[i], keep, -(c.rate * m / denominator));
  }
}

}  // namespace

template <class T>
void adamw_update(const AdamWStep& step, std::span<const AdamWPart<T>> parts) {
  const Coefficients<T> coefficients(step);
  ArenaScope scratch(thread_arena());
  const PartBlocks blocks(scratch, std::ssize(parts),
                          [&](int64_t part) { return parts[static_cast<size_t>(part)].n; });
  blocks.for_each([&](const PartBlock& b) {
    const AdamWPart<T>& part = parts[static_cast<size_t>(b.part)];
    const T keep = part.decays ? coefficients.keep_decayed : T{1};
    const AdamWState<T> state{part.state.value + b.begin, part.state.m + b.begin,
                              part.state.v + b.begin};
    const int64_t n = b.end - b.begin;
    if (part.grad == nullptr) {
      update_block(
          n, coefficients, keep, [](int64_t) { return T{0}; }, state);
    } else {
      const T* __restrict grad = part.grad + b.begin;
      update_block(
          n, coefficients, keep, [grad](int64_t i) { return grad[i]; }, state);
    }
  });
}

template void adamw_update(const AdamWStep&, std::span<const AdamWPart<float>>);
template void adamw_update(const AdamWStep&, std::span<const AdamWPart<double>>);

}  // namespace sluice::kernels
