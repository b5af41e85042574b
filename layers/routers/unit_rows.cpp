#include "layers/routers/unit_rows.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops/norm.h"

namespace sluice {
namespace {

constexpr double kSquaredNormEpsilon = 1e-16;

}  // namespace

Tensor filled(Tape& tape, const Shape& shape, DType dtype, double value) {
  Tensor result = tape.empty(shape, dtype);
  if (!result.has_memory()) return result;
  dispatch_float(dtype,
                 [&]<class T>() { std::ranges::fill(result.span<T>(), static_cast<T>(value)); });
  return result;
}

Tensor unit_rows(Tape& tape, const Tensor& x) {
  // x over its root mean square is D^(1/2) times too long.
  const int64_t width = x.dim(1);
  const auto d = static_cast<double>(width);
  return rms_norm(tape, x, filled(tape, {width}, x.dtype(), 1.0 / std::sqrt(d)),
                  kSquaredNormEpsilon / d);
}

}  // namespace sluice
