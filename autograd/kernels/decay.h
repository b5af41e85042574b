#pragma once
// How much of a state is left.

#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {

/// e^x for x <= 0, as decays use it: 0 below e^-60 (1e-26; f64: e^-600), so that products of decays
/// with other numbers stay away from denormals, over which a processor takes a hundred times as
/// long.
template <class T>
[[nodiscard]] inline Vec<T> decay(Vec<T> x) {
  constexpr T kLowest = sizeof(T) == 4 ? T{-60} : T{-600};
  return exp_of_negative(x, kLowest);
}

}  // namespace sluice::kernels
