#pragma once
// One register of numbers: the few operations that the hand-written kernels need, on AVX-512, AVX2
// with FMA, or whatever the compiler makes of GCC's vector extension. The instruction set is fixed
// when the library is built.
//
// Every operation treats its lanes independently, so a number's result does not depend on the lane
// it sits in; the two reductions add or compare lanes in one fixed order.

#include <cstdint>
#include <cstring>
#include <utility>

#include "autograd/support/bfloat16.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace sluice::kernels {

#if defined(__AVX512F__)
inline constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr int64_t kVectorBytes = 32;
#else
inline constexpr int64_t kVectorBytes = 16;
#endif

/// A register of kWidth numbers.
template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Native = float __attribute__((vector_size(kVectorBytes)));
  using Bits = int32_t __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t kWidth = kVectorBytes / 4;
  Native v;
};

template <>
struct Vec<double> {
  using Native = double __attribute__((vector_size(kVectorBytes)));
  using Bits = int64_t __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t kWidth = kVectorBytes / 8;
  Native v;
};

template <class T>
[[nodiscard]] inline Vec<T> broadcast(T x) {
  return {x - typename Vec<T>::Native{}};  // x - 0 is x, also for -0
}

template <class T>
[[nodiscard]] inline Vec<T> zeros() {
  return {typename Vec<T>::Native{}};
}

/// No alignment is needed.
template <class T>
[[nodiscard]] inline Vec<T> load(const T* x) {
  Vec<T> result;
  std::memcpy(&result.v, x, sizeof(result.v));
  return result;
}

template <class T>
inline void store(T* x, Vec<T> value) {
  std::memcpy(x, &value.v, sizeof(value.v));
}

/// The first `count` (0 .. kWidth) elements, the other lanes 0; nothing past them is touched.
template <class T>
[[nodiscard]] inline Vec<T> load_first(const T* x, int64_t count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<uint32_t>((uint64_t{1} << count) - 1);
  if constexpr (sizeof(T) == 4) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x)};
  } else {
    return {_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), x)};
  }
#else
  Vec<T> result = zeros<T>();
  for (int64_t i = 0; i < count; ++i) result.v[i] = x[i];
  return result;
#endif
}

/// The same of numbers stored in bf16, widened.
[[nodiscard]] inline Vec<float> load_first(const BFloat16* x, int64_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const auto mask = static_cast<__mmask16>((uint32_t{1} << count) - 1);
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(mask, _mm256_maskz_loadu_epi16(mask, x));
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(mask, wide, 16))};
#else
  Vec<float> result = zeros<float>();
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
  if (count == Vec<float>::kWidth) {
    __m128i bits;
    std::memcpy(&bits, x, sizeof(bits));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
#endif
  for (int64_t i = 0; i < count; ++i) result.v[i] = widened(x[i]);
  return result;
#endif
}

/// Stores the first `count` (0 .. kWidth) lanes.
template <class T>
inline void store_first(T* x, Vec<T> value, int64_t count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<uint32_t>((uint64_t{1} << count) - 1);
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(x, static_cast<__mmask16>(mask), value.v);
  } else {
    _mm512_mask_storeu_pd(x, static_cast<__mmask8>(mask), value.v);
  }
#else
  for (int64_t i = 0; i < count; ++i) x[i] = value.v[i];
#endif
}

template <class T>
[[nodiscard]] inline Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return {a.v + b.v};
}
template <class T>
[[nodiscard]] inline Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return {a.v - b.v};
}
template <class T>
[[nodiscard]] inline Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return {a.v * b.v};
}
template <class T>
[[nodiscard]] inline Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}

/// a * b + c with one rounding where the machine has it (AVX2 with FMA and AVX-512), with two
/// elsewhere.
[[nodiscard]] inline Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
#elif defined(__AVX2__) && defined(__FMA__)
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
#else
  return a * b + c;
#endif
}
[[nodiscard]] inline Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return {_mm512_fmadd_pd(a.v, b.v, c.v)};
#elif defined(__AVX2__) && defined(__FMA__)
  return {_mm256_fmadd_pd(a.v, b.v, c.v)};
#else
  return a * b + c;
#endif
}

/// x < y ? if_less : otherwise, lane by lane; a NaN compares false.
template <class T>
[[nodiscard]] inline Vec<T> select_less(Vec<T> x, Vec<T> y, Vec<T> if_less, Vec<T> otherwise) {
  return {x.v < y.v ? if_less.v : otherwise.v};
}

/// a > b ? a : b, lane by lane: b where either is NaN.
template <class T>
[[nodiscard]] inline Vec<T> max(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  // The masked form: GCC 12 warns of the plain one's undefined pass-through register.
  if constexpr (sizeof(T) == 4) {
    return {_mm512_maskz_max_ps(static_cast<__mmask16>(-1), a.v, b.v)};
  } else {
    return {_mm512_maskz_max_pd(static_cast<__mmask8>(-1), a.v, b.v)};
  }
#else
  return {a.v > b.v ? a.v : b.v};
#endif
}

/// a < b ? a : b, lane by lane: b where either is NaN.
template <class T>
[[nodiscard]] inline Vec<T> min(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return {_mm512_maskz_min_ps(static_cast<__mmask16>(-1), a.v, b.v)};
  } else {
    return {_mm512_maskz_min_pd(static_cast<__mmask8>(-1), a.v, b.v)};
  }
#else
  return {a.v < b.v ? a.v : b.v};
#endif
}

#if defined(__AVX512F__)
/// x * 2^n for integral n, rounded once, also where 2^n itself is out of range.
template <class T>
[[nodiscard]] inline Vec<T> scale_by_power_of_two(Vec<T> x, Vec<T> n) {
  if constexpr (sizeof(T) == 4) {
    return {_mm512_maskz_scalef_ps(static_cast<__mmask16>(-1), x.v, n.v)};
  } else {
    return {_mm512_maskz_scalef_pd(static_cast<__mmask8>(-1), x.v, n.v)};
  }
}
#endif

namespace detail {
template <int kFirst, class T, int... kLane>
[[nodiscard]] inline Vec<T> interleave(Vec<T> a, Vec<T> b, std::integer_sequence<int, kLane...>) {
  constexpr int kWidth = static_cast<int>(Vec<T>::kWidth);
  return {__builtin_shufflevector(a.v, b.v, (kFirst + kLane / 2 + kLane % 2 * kWidth)...)};
}
}  // namespace detail

/// a0 b0 a1 b1 ... of the lower halves.
template <class T>
[[nodiscard]] inline Vec<T> interleave_low(Vec<T> a, Vec<T> b) {
  constexpr int kWidth = static_cast<int>(Vec<T>::kWidth);
  return detail::interleave<0>(a, b, std::make_integer_sequence<int, kWidth>());
}
/// The same of the upper halves.
template <class T>
[[nodiscard]] inline Vec<T> interleave_high(Vec<T> a, Vec<T> b) {
  constexpr int kWidth = static_cast<int>(Vec<T>::kWidth);
  return detail::interleave<kWidth / 2>(a, b, std::make_integer_sequence<int, kWidth>());
}

/// Transposes a kWidth x kWidth block held in registers: log2(kWidth) rounds of perfect shuffles.
template <class T>
inline void transpose(Vec<T> (&rows)[Vec<T>::kWidth]) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  for (int64_t round = 1; round < kWidth; round *= 2) {
    Vec<T> shuffled[kWidth];
#pragma GCC unroll 8
    for (int64_t i = 0; i < kWidth / 2; ++i) {
      shuffled[2 * i] = interleave_low(rows[i], rows[i + kWidth / 2]);
      shuffled[2 * i + 1] = interleave_high(rows[i], rows[i + kWidth / 2]);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kWidth; ++i) rows[i] = shuffled[i];
  }
}

namespace detail {
/// Lane i becomes lane i + kShift, modulo the width.
template <int kShift, class T, int... kLane>
[[nodiscard]] inline Vec<T> rotate(Vec<T> x, std::integer_sequence<int, kLane...>) {
  constexpr int kWidth = static_cast<int>(Vec<T>::kWidth);
  return {__builtin_shufflevector(x.v, x.v, ((kLane + kShift) % kWidth)...)};
}

/// Folds halves onto each other with `combine`, in registers, until one lane is left.
template <int kHalf, class T, class Combine>
[[nodiscard]] inline T fold_lanes(Vec<T> x, Combine&& combine) {
  constexpr int kWidth = static_cast<int>(Vec<T>::kWidth);
  x = combine(x, rotate<kHalf>(x, std::make_integer_sequence<int, kWidth>()));
  if constexpr (kHalf > 1) {
    return fold_lanes<kHalf / 2>(x, combine);
  } else {
    return x.v[0];
  }
}
}  // namespace detail

/// Sum of the lanes as a binary tree: lane i with lane i + kWidth/2, and so on.
template <class T>
[[nodiscard]] inline T sum_lanes(Vec<T> x) {
  constexpr int kHalf = static_cast<int>(Vec<T>::kWidth / 2);
  return detail::fold_lanes<kHalf>(x, [](Vec<T> a, Vec<T> b) { return a + b; });
}

/// Largest lane; NaN lanes may be passed over.
template <class T>
[[nodiscard]] inline T max_lanes(Vec<T> x) {
  constexpr int kHalf = static_cast<int>(Vec<T>::kWidth / 2);
  return detail::fold_lanes<kHalf>(x, [](Vec<T> a, Vec<T> b) { return max(a, b); });
}

}  // namespace sluice::kernels
