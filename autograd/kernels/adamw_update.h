#pragma once
// One step of AdamW over all parameters, in one pass (Loshchilov and Hutter 2019, "Decoupled weight
// decay regularization", algorithm 2).
//
//   value  <- value (1 - lr wd)
//   m      <- beta1 m + (1 - beta1) g
//   v      <- beta2 v + (1 - beta2) g^2
//   value  <- value - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
//
// The decay comes first and uses the scheduled learning rate; epsilon is added after the
// bias-corrected root. Moves 28 bytes per f32 parameter (reads value, g, m, v; writes value, m, v),
// 24 where the gradient is known to be zero, and is bound by that.

#include <cstdint>
#include <span>

namespace sluice::kernels {

struct AdamWStep {
  int64_t t = 1;  // steps including this one, 1 or more
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double gradient_scale = 1.0;  // g = gradient_scale * grad: clipping without a pass of its own
};

/// What is updated. All [n].
template <class T>
struct AdamWState {
  T* value;
  T* m;
  T* v;
};

/// One parameter of many.
template <class T>
struct AdamWPart {
  int64_t n = 0;
  const T* grad = nullptr;  // [n], or null for zeros, which are not read
  AdamWState<T> state{};
  bool decays = true;  // else its weight decay is zero
};

/// All parameters in one parallel loop. Coefficients are computed in f64 and rounded once to T; each
/// multiply-add above is one std::fma, so that the result is the same bits as the reference's,
/// element by element, however the loop is compiled and whatever the parameters beside it.
template <class T>
void adamw_update(const AdamWStep& step, std::span<const AdamWPart<T>> parts);

/// One parameter.
template <class T>
void adamw_update(int64_t n, const AdamWStep& step, const T* grad, const AdamWState<T>& state) {
  const AdamWPart<T> part{.n = n, .grad = grad, .state = state};
  adamw_update<T>(step, std::span<const AdamWPart<T>>(&part, 1));
}

}  // namespace sluice::kernels
