#pragma once
// Random element-wise factors from counters, so that recomputation, threads and micro-batches
// cannot change them.

#include <span>

#include "autograd/core/tape.h"
#include "autograd/support/rng.h"

namespace sluice {

/// Which numbers a row of x gets: row n is position n - sequence_offsets[s] of sequence s, whose
/// stream is samples[s].
struct RowStreams {
  RandomKey key;
  std::span<const int64_t> sequence_offsets;  // [S + 1]
  std::span<const uint64_t> samples;          // [S]
};

/// y = x * keep / (1 - probability) with keep ~ Bernoulli(1 - probability) per element; x [N, D].
/// The spans must live until the backward has run. Throws ShapeError; ConfigError unless 0 <=
/// probability < 1.
[[nodiscard]] Tensor dropout(Tape& tape, const Tensor& x, double probability,
                             const RowStreams& streams);

/// y = x * u with u ~ Uniform(1 - epsilon, 1 + epsilon) per element (router input jitter; Switch
/// Transformer).
[[nodiscard]] Tensor jitter(Tape& tape, const Tensor& x, double epsilon, const RowStreams& streams);

/// Standard normal numbers [N, D], a constant of the given dtype.
[[nodiscard]] Tensor normal_noise(Tape& tape, const Shape& shape, DType dtype,
                                  const RowStreams& streams);

}  // namespace sluice
