#pragma once
// Rounding to few levels: weights to {-1, 0, 1} times one number per matrix, rows to 8 bits.

#include <cstdint>

namespace sluice::kernels {

/// y = g t for each of `matrices` matrices of `size` elements, one behind the other:
///   g = mean |x|,   t = clamp(round(x / (g + epsilon)), -1, 1),   round half to even
/// (BitNet b1.58, arXiv 2402.17764). x and y may be the same memory.
template <class T>
void ternarise(int64_t matrices, int64_t size, double epsilon, const T* x, T* y);

/// y = clamp(round(a x), -128, 127) / a for each of `rows` rows of `width`, a = 127 / max |x| of the
/// row, round half to even; a row of zeros stays. x and y may be the same memory.
template <class T>
void round_rows_to_int8(int64_t rows, int64_t width, const T* x, T* y);

}  // namespace sluice::kernels
