#pragma once
// Rotary position embedding (Su et al. 2021, "RoFormer", equation 34) and its frequency scalings.
//
// Pair i of the rotated width (its pairs: R / 2) turns by the angle position * omega_i:
//
//   y[a] = x[a] cos - x[b] sin,   y[b] = x[b] cos + x[a] sin
//
// with (a, b) = (2i, 2i + 1) in the interleaved layout (Meta, DeepSeek) and (i, i + R/2) in the
// half-split one (Hugging Face's rotate_half), counted from the first rotated element. The other
// elements are copied. The backward turns by the opposite angle.

#include <cstdint>
#include <optional>
#include <vector>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

enum class RopeLayout : uint8_t { half_split, interleaved };
enum class RopeScaling : uint8_t { none, linear, llama3, yarn };

/// The keys of `rope_scaling` in common checkpoint configs.
struct RopeConfig {
  int64_t rotary_dim = 0;  // R: even, at most the head's width
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;                     // s: how many times longer than the original context
  int64_t original_max_positions = 8192;   // C
  double low_frequency_factor = 1.0;       // llama3
  double high_frequency_factor = 4.0;      // llama3
  double beta_fast = 32.0;                 // yarn: turns over C above which a pair is kept
  double beta_slow = 1.0;                  // yarn: turns over C below which a pair is interpolated
  std::optional<double> attention_factor;  // yarn: replaces 0.1 ln s + 1
};

struct RopeFrequencies {
  std::vector<double> omega;     // [R / 2], radians per position
  double attention_scale = 1.0;  // cos and sin are multiplied by it
};

/// omega_i = theta^(-2i / R), scaled:
///   linear  omega / s (Chen et al. 2023, "Extending context window ... via position
///   interpolation") llama3  with wavelength l = 2 pi / omega: kept when l < C / high, omega / s
///   when l > C / low, blended between yarn    omega / s for slow pairs, kept for fast ones, a
///   linear ramp between (Peng et al. 2023, "YaRN",
///           section 3.2), and the attention factor 0.1 ln s + 1 (equation 22)
/// Throws ConfigError when a number is out of range.
[[nodiscard]] RopeFrequencies rope_frequencies(const RopeConfig& config);

/// cos[p, i] and sin[p, i] of the angle p omega_i for positions 0 .. positions-1, times the
/// attention scale; computed in f64. Both are [positions, R / 2].
template <class T>
void rope_table(const RopeFrequencies& frequencies, int64_t positions, T* cos, T* sin);

/// N tokens, H heads of width P.
template <class T>
struct Rope {
  int64_t H;
  int64_t P;
  int64_t pairs;  // R / 2
  RopeLayout layout = RopeLayout::half_split;
  const int32_t* position;  // [N], each below the table's positions
  const T* cos;             // [positions, pairs]
  const T* sin;             // [positions, pairs]
  int64_t first = 0;        // the first rotated element of a head
};

/// One head of a token: put(i, value) leaves element i < P of what x [P] turns into. `sign` is -1 to
/// turn backwards. H is not read.
template <class T, class Put>
inline void rotate_head(const Rope<T>& r, int64_t token, T sign, const T* x, Put&& put) {
  const T* cos = r.cos + r.position[token] * r.pairs;
  const T* sin = r.sin + r.position[token] * r.pairs;
  const T* y = x + r.first;
  if (r.layout == RopeLayout::half_split) {
    for (int64_t i = 0; i < r.pairs; ++i) {
      put(r.first + i, y[i] * cos[i] - y[i + r.pairs] * (sign * sin[i]));
    }
    for (int64_t i = 0; i < r.pairs; ++i) {
      put(r.first + r.pairs + i, y[r.pairs + i] * cos[i] + y[i] * (sign * sin[i]));
    }
  } else {
    for (int64_t i = 0; i < r.pairs; ++i) {
      put(r.first + 2 * i, y[2 * i] * cos[i] - y[2 * i + 1] * (sign * sin[i]));
      put(r.first + 2 * i + 1, y[2 * i + 1] * cos[i] + y[2 * i] * (sign * sin[i]));
    }
  }
  for (int64_t i = 0; i < r.first; ++i) put(i, x[i]);
  for (int64_t i = r.first + 2 * r.pairs; i < r.P; ++i) put(i, x[i]);
}

/// x and y are [N, H, P].
template <class T>
void rope(int64_t N, const Rope<T>& rotation, const T* x, T* y);
template <class T>
void rope_backward(int64_t N, const Rope<T>& rotation, const T* grad_y, const Gradient<T>& grad_x);

}  // namespace sluice::kernels
