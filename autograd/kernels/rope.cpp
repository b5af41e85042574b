#include "autograd/kernels/rope.h"

#include <cmath>
#include <numbers>

#include "autograd/kernels/rows.h"
#include "autograd/support/error.h"

namespace sluice::kernels {
namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

double llama3_frequency(const RopeConfig& config, double omega) {
  const double turns =
      static_cast<double>(config.original_max_positions) * omega / kTwoPi;  // C / l
  if (turns > config.high_frequency_factor) return omega;
  if (turns < config.low_frequency_factor) return omega / config.factor;
  const double blend = (turns - config.low_frequency_factor) /
                       (config.high_frequency_factor - config.low_frequency_factor);
  return (1.0 - blend) * omega / config.factor + blend * omega;
}

/// The (fractional) pair that makes `turns` turns over the original context.
double yarn_pair_of_turns(const RopeConfig& config, double turns) {
  return static_cast<double>(config.rotary_dim) *
         std::log(static_cast<double>(config.original_max_positions) / (turns * kTwoPi)) /
         (2.0 * std::log(config.theta));
}

void scale_yarn(const RopeConfig& config, RopeFrequencies& frequencies) {
  const double low = std::max(std::floor(yarn_pair_of_turns(config, config.beta_fast)), 0.0);
  double high = std::min(std::ceil(yarn_pair_of_turns(config, config.beta_slow)),
                         static_cast<double>(config.rotary_dim - 1));
  if (low == high) high += 0.001;  // as in the authors' code: no division by zero
  for (size_t i = 0; i < frequencies.omega.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double& omega = frequencies.omega[i];
    omega = omega / config.factor * ramp + omega * (1.0 - ramp);
  }
  frequencies.attention_scale =
      config.attention_factor.value_or(0.1 * std::log(config.factor) + 1.0);
}

void check(const RopeConfig& config) {
  SLUICE_CHECK(ConfigError, config.rotary_dim >= 2 && config.rotary_dim % 2 == 0,
               "rope: rotary_dim is {}, expected an even number of at least 2", config.rotary_dim);
  SLUICE_CHECK(ConfigError, config.theta > 1.0, "rope: theta is {}, expected more than 1",
               config.theta);
  SLUICE_CHECK(ConfigError, config.factor >= 1.0, "rope: scaling factor is {}, expected 1 or more",
               config.factor);
  SLUICE_CHECK(ConfigError, config.original_max_positions >= 1,
               "rope: original_max_positions is {}, expected 1 or more",
               config.original_max_positions);
  SLUICE_CHECK(
      ConfigError,
      config.low_frequency_factor > 0 && config.low_frequency_factor < config.high_frequency_factor,
      "rope: low_frequency_factor is {} and high_frequency_factor {}, expected 0 < low < high",
      config.low_frequency_factor, config.high_frequency_factor);
  SLUICE_CHECK(ConfigError, config.beta_slow > 0 && config.beta_slow <= config.beta_fast,
               "rope: beta_slow is {} and beta_fast {}, expected 0 < slow <= fast",
               config.beta_slow, config.beta_fast);
}

/// One token's heads; put(index, value) leaves element `index` of the token.
template <class T, class Put>
void rotate_token(const Rope<T>& r, int64_t token, T sign, const T* x, Put&& put) {
  for (int64_t start = 0; start < r.H * r.P; start += r.P) {
    rotate_head(r, token, sign, x + start, [&](int64_t i, T value) { put(start + i, value); });
  }
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeConfig& config) {
  check(config);
  RopeFrequencies frequencies;
  frequencies.omega.resize(static_cast<size_t>(config.rotary_dim / 2));
  for (size_t i = 0; i < frequencies.omega.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dim);
    frequencies.omega[i] = std::pow(config.theta, exponent);
  }
  if (config.scaling == RopeScaling::linear) {
    for (double& omega : frequencies.omega) omega /= config.factor;
  } else if (config.scaling == RopeScaling::llama3) {
    for (double& omega : frequencies.omega) omega = llama3_frequency(config, omega);
  } else if (config.scaling == RopeScaling::yarn) {
    scale_yarn(config, frequencies);
  }
  return frequencies;
}

template <class T>
void rope_table(const RopeFrequencies& frequencies, int64_t positions, T* cos, T* sin) {
  const auto pairs = static_cast<int64_t>(frequencies.omega.size());
  parallel_rows(positions, pairs, [&](int64_t position) {
    for (int64_t i = 0; i < pairs; ++i) {
      const double angle =
          static_cast<double>(position) * frequencies.omega[static_cast<size_t>(i)];
      cos[position * pairs + i] = static_cast<T>(std::cos(angle) * frequencies.attention_scale);
      sin[position * pairs + i] = static_cast<T>(std::sin(angle) * frequencies.attention_scale);
    }
  });
}

template <class T>
void rope(int64_t N, const Rope<T>& rotation, const T* x, T* y) {
  const int64_t width = rotation.H * rotation.P;
  parallel_rows(N, width, [&](int64_t token) {
    T* row = y + token * width;
    rotate_token(rotation, token, T{1}, x + token * width,
                 [row](int64_t i, T value) { row[i] = value; });
  });
}

template <class T>
void rope_backward(int64_t N, const Rope<T>& rotation, const T* grad_y, const Gradient<T>& grad_x) {
  const int64_t width = rotation.H * rotation.P;
  parallel_rows(N, width, [&](int64_t token) {
    T* row = grad_x.data + token * width;
    const T* grad_row = grad_y + token * width;
    if (grad_x.accumulate) {
      rotate_token(rotation, token, T{-1}, grad_row,
                   [row](int64_t i, T value) { row[i] += value; });
    } else {
      rotate_token(rotation, token, T{-1}, grad_row, [row](int64_t i, T value) { row[i] = value; });
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                        \
  template void rope_table(const RopeFrequencies&, int64_t, T*, T*); \
  template void rope(int64_t, const Rope<T>&, const T*, T*);         \
  template void rope_backward(int64_t, const Rope<T>&, const T*, const Gradient<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
