#pragma once
// Rotary position embedding.

#include "autograd/core/tape.h"
#include "autograd/kernels/rope.h"

namespace sluice {

using RopeLayout = kernels::RopeLayout;
using RopeScaling = kernels::RopeScaling;
using RopeConfig = kernels::RopeConfig;

/// Angles for positions 0 .. P-1, made once.
struct RopeTable {
  Tensor cos;  // [P, R / 2]
  Tensor sin;  // [P, R / 2]
};

/// Throws ConfigError when a number of `config` is out of range.
[[nodiscard]] RopeTable rope_table(Pool& pool, DType dtype, const RopeConfig& config,
                                   int64_t positions);

/// Rotates the first R elements of every head. x [N, H, P], positions [N] i32 below the table's P.
/// Saves positions. Throws ShapeError (also for a position past the table), DTypeError.
[[nodiscard]] Tensor rope(Tape& tape, const Tensor& x, const Tensor& positions,
                          const RopeTable& table, RopeLayout layout);

}  // namespace sluice
