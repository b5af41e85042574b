#pragma once
// What most ops need: checks of their operands, the bytes they move, where gradients go, samples.

#include <initializer_list>
#include <string_view>

#include "autograd/core/tape.h"
#include "autograd/kernels/gradient.h"
#include "autograd/kernels/stored.h"

namespace sluice {

/// "matmul: weight is i32, expected f32 or f64"
inline void check_floating(std::string_view op, std::string_view name, const Tensor& x) {
  SLUICE_CHECK(DTypeError, is_floating(x.dtype()), "{}: {} is {}, expected f32 or f64", op, name,
               name_of(x.dtype()));
}

inline void check_dtype(std::string_view op, std::string_view name, const Tensor& x, DType dtype) {
  SLUICE_CHECK(DTypeError, x.dtype() == dtype, "{}: {} is {}, expected {}", op, name,
               name_of(x.dtype()), name_of(dtype));
}

/// `expected` spells the shape: "[N, D]".
inline void check_rank(std::string_view op, std::string_view name, const Tensor& x, int rank,
                       std::string_view expected) {
  SLUICE_CHECK(ShapeError, x.rank() == rank, "{}: {} is {}, expected {}", op, name, x.shape(),
               expected);
}

inline void check_min_rank(std::string_view op, std::string_view name, const Tensor& x, int rank) {
  SLUICE_CHECK(ShapeError, x.rank() >= rank, "{}: {} is {}, expected at least {} dimension{}", op,
               name, x.shape(), rank, rank == 1 ? "" : "s");
}

/// Exactly this shape: "add_bias: bias is [8], expected [16]".
inline void check_shape(std::string_view op, std::string_view name, const Tensor& x,
                        const Shape& expected) {
  SLUICE_CHECK(ShapeError, x.shape() == expected, "{}: {} is {}, expected {}", op, name, x.shape(),
               expected);
}

/// A tensor and the name that messages give it.
struct Operand {
  std::string_view name;
  const Tensor& tensor;
};

/// Both floating and of one dtype: "mul: a is f32 but b is f64".
inline void check_same_dtype(std::string_view op, const Operand& a, const Operand& b) {
  check_floating(op, a.name, a.tensor);
  SLUICE_CHECK(DTypeError, a.tensor.dtype() == b.tensor.dtype(), "{}: {} is {} but {} is {}", op,
               a.name, name_of(a.tensor.dtype()), b.name, name_of(b.tensor.dtype()));
}

/// What ops compute with x and a matrix they only read: the matrix has x's dtype or, where no gradient
/// passes through, is bf16 beside an x of f32.
inline void check_weight(Tape& tape, std::string_view op, const Operand& x, const Operand& weight) {
  if (weight.tensor.dtype() != DType::bf16 || x.tensor.dtype() != DType::f32) {
    return check_same_dtype(op, x, weight);
  }
  SLUICE_CHECK(DTypeError, !tape.requires_grad(x.tensor) && !tape.requires_grad(weight.tensor),
               "{}: {} is bf16, which is for inference only; a gradient needs it in f32", op,
               weight.name);
}

/// The elements of a weight for a kernel that computes in T.
template <class T>
[[nodiscard]] kernels::Stored<T> stored(const Tensor& weight) {
  if constexpr (std::is_same_v<T, float>) {
    if (weight.dtype() == DType::bf16) return kernels::Stored<T>::of(weight.data<BFloat16>());
  }
  return weight.data<T>();
}

/// Both floating, of one dtype and one shape: "add: a is [2, 3] but b is [3, 2]; shapes differ".
inline void check_alike(std::string_view op, const Operand& a, const Operand& b) {
  check_same_dtype(op, a, b);
  SLUICE_CHECK(ShapeError, a.tensor.shape() == b.tensor.shape(),
               "{}: {} is {} but {} is {}; shapes differ", op, a.name, a.tensor.shape(), b.name,
               b.tensor.shape());
}

/// [E + 1] i32 from 0 to `rows`, non-decreasing: expert e has rows offsets[e] .. offsets[e + 1] - 1.
inline void check_expert_offsets(std::string_view op, const Tensor& offsets, int64_t experts,
                                 int64_t rows) {
  check_dtype(op, "offsets", offsets, DType::i32);
  check_shape(op, "offsets", offsets, {experts + 1});
  if (!offsets.has_memory()) return;
  const auto values = offsets.span<int32_t>();
  for (size_t e = 0; e + 1 < values.size(); ++e) {
    SLUICE_CHECK(ShapeError, values[e] <= values[e + 1],
                 "{}: offsets decrease from {} to {} at expert {}", op, values[e], values[e + 1],
                 e);
  }
  SLUICE_CHECK(ShapeError, values.front() == 0 && values.back() == rows,
               "{}: offsets run from {} to {}, x has rows 0 to {}", op, values.front(),
               values.back(), rows);
}

/// The cost of a kernel that reads or writes each of these once.
[[nodiscard]] inline KernelCost moving(std::initializer_list<Tensor> tensors) {
  KernelCost cost;
  for (const Tensor& tensor : tensors) {
    if (tensor.defined()) cost.bytes += static_cast<double>(tensor.bytes());
  }
  return cost;
}

/// The target of input i's gradient, with an undefined tensor when that gradient is not wanted.
[[nodiscard]] inline GradTarget wanted_target(Backward& b, int input) {
  return b.needs(input) ? b.target(input) : GradTarget{};
}

/// The same, for a kernel.
template <class T>
[[nodiscard]] kernels::Gradient<T> gradient(GradTarget& target) {
  if (!target.tensor.defined()) return {};
  return {.data = target.tensor.data<T>(), .accumulate = !target.fresh};
}

/// `x` when input `partner` wants a gradient that needs it, else nothing: what to list as saved.
[[nodiscard]] inline Tensor saved_for(Tape& tape, const Tensor& partner, const Tensor& x) {
  return tape.requires_grad(partner) ? x : Tensor();
}

/// The shape of a reduction over the last dimension: [..., D] -> [...].
[[nodiscard]] inline Shape without_last(const Shape& shape) {
  return Shape(shape.dims().first(static_cast<size_t>(shape.rank() - 1)));
}

}  // namespace sluice
