#pragma once
// Exponential and logistic function on registers and arrays, for softmax, SwiGLU, attention and the
// losses.
//
// A number's result depends on that number alone, not on its lane or on the array's length. Errors
// against the exact value: exp below 1 ulp, sigmoid below 3 ulp; both are tested over their whole
// range.
//
//   for_each_vector<T>(n, [&](int64_t i, int64_t count) {
//     const Vec<T> a = load_first(x + i, count);
//     store_first(y + i, a * sigmoid(a), count);
//   });

#include <cstdint>

#include "autograd/kernels/simd.h"

namespace sluice::kernels {
namespace detail {

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2, exp(r) = 1 + r + r^2 P(r), where P
// interpolates at Chebyshev nodes (relative error 1.1e-8 and 1.8e-17, a fifth and a sixth of a half
// ulp). ln 2 is split so that n * kLn2High is exact.
template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLog2E = 1.44269504F;
  static constexpr float kLn2High = 0.693359375F;
  static constexpr float kLn2Low = -2.12194440e-4F;
  static constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLowest = -104.0F;     // below half the smallest denormal
  static constexpr float kHighest = 89.0F;      // above the largest finite
  static constexpr float kLowestNormal = -87.0F;
  static constexpr int32_t kBias = 127;
  static constexpr int kMantissaBits = 23;
  static constexpr float kP[] = {0.5F, 0.16666576845993977F, 0.041666554437685938F,
                                 0.0083632029715758546F, 0.0013926213466332444F};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kLn2High = 0.6931467056274414;
  static constexpr double kLn2Low = 4.7493250390316726e-07;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLowest = -746.0;
  static constexpr double kHighest = 710.0;
  static constexpr double kLowestNormal = -708.0;
  static constexpr int64_t kBias = 1023;
  static constexpr int kMantissaBits = 52;
  static constexpr double kP[] = {0.50000000000000011,    0.16666666666666669,
                                  0.04166666666662399,    0.0083333333333300511,
                                  0.0013888888917281794,  0.00019841269863105968,
                                  2.4801521190217729e-05, 2.7557268378684192e-06,
                                  2.7620138719733994e-07, 2.5100424157005067e-08};
};

template <class T>
[[nodiscard]] inline Vec<T> power_of_two(typename Vec<T>::Bits exponent) {
  const typename Vec<T>::Bits bits = (exponent + ExpConstants<T>::kBias)
                                     << ExpConstants<T>::kMantissaBits;
  Vec<T> result;
  std::memcpy(&result.v, &bits, sizeof(bits));
  return result;
}

}  // namespace detail

namespace detail {
/// exp(x) = mantissa * 2^n for x between the constants' bounds.
template <class T>
struct ExpParts {
  Vec<T> mantissa;  // between 0.7 and 1.42
  Vec<T> n;         // a whole number
  Vec<T> shifted;   // n + kRound
};

template <class T>
[[nodiscard]] inline ExpParts<T> exp_parts(Vec<T> x) {
  using Constants = ExpConstants<T>;
  const Vec<T> shifted = fma(x, broadcast(Constants::kLog2E), broadcast(Constants::kRound));
  const Vec<T> n = shifted - broadcast(Constants::kRound);
  Vec<T> r = fma(n, broadcast(-Constants::kLn2High), x);
  r = fma(n, broadcast(-Constants::kLn2Low), r);

  constexpr int kTerms = static_cast<int>(sizeof(Constants::kP) / sizeof(T));
  Vec<T> p = broadcast(Constants::kP[kTerms - 1]);
  for (int i = kTerms - 2; i >= 0; --i) p = fma(p, r, broadcast(Constants::kP[i]));
  return {fma(r * r, p, r) + broadcast(T{1}), n, shifted};
}

/// n as an integer.
template <class T>
[[nodiscard]] inline typename Vec<T>::Bits exponent_bits(const ExpParts<T>& parts) {
  const Vec<T> round = broadcast(ExpConstants<T>::kRound);
  typename Vec<T>::Bits shifted_bits;
  typename Vec<T>::Bits round_bits;
  std::memcpy(&shifted_bits, &parts.shifted.v, sizeof(shifted_bits));
  std::memcpy(&round_bits, &round.v, sizeof(round_bits));
  return shifted_bits - round_bits;
}
}  // namespace detail

/// e^x. exp(-inf) = 0, overflow gives inf, NaN stays NaN; denormal results are right to the last
/// bit but one.
template <class T>
[[nodiscard]] inline Vec<T> exp(Vec<T> x) {
  using Constants = detail::ExpConstants<T>;
  // The bound comes first: max and min give their second operand when it is a NaN.
  x = max(broadcast(Constants::kLowest), x);
  x = min(broadcast(Constants::kHighest), x);
  const detail::ExpParts<T> parts = detail::exp_parts(x);
#if defined(__AVX512F__)
  return scale_by_power_of_two(parts.mantissa, parts.n);
#else
  // 2^n in two factors, since n reaches past both ends of the exponent: the last product rounds
  // once.
  using Bits = typename Vec<T>::Bits;
  const Bits exponent = detail::exponent_bits(parts);
  const Bits half = exponent >> 1;
  return parts.mantissa * detail::power_of_two<T>(half) * detail::power_of_two<T>(exponent - half);
#endif
}

/// e^x for x up to 1, or NaN, without denormal results: 0 where x is below -87 (f32) or -708 (f64).
/// For sums in which 1 is among the terms, and where many x may be -inf: a processor can take a
/// hundred times as long over a denormal. `lowest`, no less than those bounds, raises them where
/// results meet further small factors.
template <class T>
[[nodiscard]] inline Vec<T> exp_of_negative(Vec<T> x,
                                            T lowest = detail::ExpConstants<T>::kLowestNormal) {
  const detail::ExpParts<T> parts = detail::exp_parts(max(broadcast(lowest), x));
#if defined(__AVX512F__)
  const Vec<T> result = scale_by_power_of_two(parts.mantissa, parts.n);
#else
  const Vec<T> result = parts.mantissa * detail::power_of_two<T>(detail::exponent_bits(parts));
#endif
  return select_less(x, broadcast(lowest), zeros<T>(), result);
}

/// 1 / (1 + e^-x), without overflow at either end.
template <class T>
[[nodiscard]] inline Vec<T> sigmoid(Vec<T> x) {
  // e^-|x| / (1 + e^-|x|) for negative x: e^-x would overflow where the result is not yet 0.
  const Vec<T> one = broadcast(T{1});
  const Vec<T> zero = zeros<T>();
  const Vec<T> e = exp(min(x, zero - x));
  return select_less(x, zero, e, one) / (one + e);
}

/// body(i, count) for i = 0, kWidth, 2 kWidth, ... below n; count is kWidth but for the last.
template <class T, class Body>
inline void for_each_vector(int64_t n, Body&& body) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) body(i, kWidth);
  if (i < n) body(i, n - i);
}

/// y[i] = e^x[i]. In place when y == x.
template <class T>
void exp_array(int64_t n, const T* x, T* y);

/// y[i] = e^(x[i] - shift); returns their sum, in an order fixed by n. y may equal x, or be null
/// for the sum alone.
template <class T>
T exp_shifted(int64_t n, const T* x, T shift, T* y);

/// Largest of n numbers; -inf for none. A NaN may be passed over.
template <class T>
[[nodiscard]] T max_of_array(int64_t n, const T* x);

}  // namespace sluice::kernels
