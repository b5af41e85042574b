#pragma once
// Tensor: a small handle to a dtype, a shape and a counted block of memory.
//
//   Tensor x = Tensor::zeros(pool, {n, d}, DType::f32);
//   float* rows = x.data<float>();
//
// Contents are contiguous and row-major. Copying a Tensor shares its memory; ops never modify their
// inputs. A tensor that an op produced on a recording tape also carries the tape's value number, by
// which gradients flow.

#include <span>
#include <vector>

#include "autograd/core/dtype.h"
#include "autograd/core/shape.h"
#include "autograd/support/pool.h"

namespace sluice {

class Tape;

class Tensor {
 public:
  Tensor() = default;
  /// Uninitialised memory.
  [[nodiscard]] static Tensor empty(Pool& pool, const Shape& shape, DType dtype,
                                    MemoryKind kind = MemoryKind::activations);
  [[nodiscard]] static Tensor zeros(Pool& pool, const Shape& shape, DType dtype,
                                    MemoryKind kind = MemoryKind::activations);
  /// A copy of `values` in the given shape. Throws ShapeError when the counts differ.
  template <class T>
  [[nodiscard]] static Tensor of(Pool& pool, const Shape& shape, std::span<const T> values);
  template <class T>
  [[nodiscard]] static Tensor of(Pool& pool, const Shape& shape, const std::vector<T>& values) {
    return of<T>(pool, shape, std::span<const T>(values));
  }

  [[nodiscard]] bool defined() const { return static_cast<bool>(block_); }
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] const Shape& shape() const { return shape_; }
  /// Size of dimension i; negative i counts from the last.
  [[nodiscard]] int64_t dim(int i) const { return shape_[i]; }
  [[nodiscard]] int rank() const { return shape_.rank(); }
  [[nodiscard]] int64_t numel() const { return shape_.numel(); }
  [[nodiscard]] int64_t bytes() const { return numel() * size_of(dtype_); }
  /// False in a pool for shapes only: there is nothing to read.
  [[nodiscard]] bool has_memory() const { return defined() && block_.data() != nullptr; }

  template <class T>
  [[nodiscard]] T* data() {
    check_dtype(dtype_of<T>);
    return reinterpret_cast<T*>(block_.data());
  }
  template <class T>
  [[nodiscard]] const T* data() const {
    check_dtype(dtype_of<T>);
    return reinterpret_cast<const T*>(block_.data());
  }
  template <class T>
  [[nodiscard]] std::span<T> span() {
    return {data<T>(), static_cast<size_t>(numel())};
  }
  template <class T>
  [[nodiscard]] std::span<const T> span() const {
    return {data<T>(), static_cast<size_t>(numel())};
  }
  /// The raw bytes (checkpoints, hashes).
  [[nodiscard]] std::span<std::byte> raw() { return {block_.data(), static_cast<size_t>(bytes())}; }
  [[nodiscard]] std::span<const std::byte> raw() const {
    return {block_.data(), static_cast<size_t>(bytes())};
  }

  /// The same memory in another shape with the same number of elements; not recorded (the op
  /// `reshape` is).
  [[nodiscard]] Tensor reshaped(const Shape& shape) const;
  /// The same memory, off the tape: gradients stop here.
  [[nodiscard]] Tensor detached() const;
  /// A deep copy off the tape.
  [[nodiscard]] Tensor clone(Pool& pool, MemoryKind kind = MemoryKind::activations) const;
  /// The values of an f32 tensor rounded to bf16 (nearest even), off the tape. Throws DTypeError.
  [[nodiscard]] Tensor rounded_to_bf16(Pool& pool, MemoryKind kind = MemoryKind::activations) const;
  void fill_zero();
  /// Copies values of a tensor of the same dtype and number of elements.
  void copy_from(const Tensor& other);
  /// The value of a one-element f32 or f64 tensor.
  [[nodiscard]] double item() const;
  /// True when no other handle shares the memory.
  [[nodiscard]] bool unique() const { return block_.use_count() == 1; }
  [[nodiscard]] bool shares_memory_with(const Tensor& other) const {
    return block_ == other.block_;
  }
  /// The memory behind the handle; must be defined.
  [[nodiscard]] const BlockRef& block() const { return block_; }

 private:
  friend class Tape;
  void check_dtype(DType wanted) const;

  BlockRef block_;
  Shape shape_;
  DType dtype_ = DType::f32;
  int32_t value_ = -1;  // number of this value on its tape, -1 for a constant
  uint64_t tape_ = 0;   // which tape recording it belongs to
};

}  // namespace sluice
