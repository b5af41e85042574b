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

/// Throws ShapeError or DTypeError, naming `op`, unless x [N, H, P] can turn with these from element
/// `first` of its heads on.
void check_rope(std::string_view op, const Tensor& x, const Tensor& positions,
                const RopeTable& table, int64_t first = 0);
/// The kernels' view of a rope of x; all but x's shape has memory.
template <class T>
[[nodiscard]] kernels::Rope<T> rope_view(const Tensor& x, RopeLayout layout,
                                         const Tensor& positions, const Tensor& cos,
                                         const Tensor& sin, int64_t first = 0) {
  return {.H = x.dim(1),
          .P = x.dim(2),
          .pairs = cos.dim(1),
          .layout = layout,
          .position = positions.data<int32_t>(),
          .cos = cos.data<T>(),
          .sin = sin.data<T>(),
          .first = first};
}

/// Rotates the first R elements of every head. x [N, H, P], positions [N] i32 below the table's P.
/// Saves positions. Throws ShapeError (also for a position past the table), DTypeError.
[[nodiscard]] Tensor rope(Tape& tape, const Tensor& x, const Tensor& positions,
                          const RopeTable& table, RopeLayout layout);

}  // namespace sluice
