#pragma once
// Rows of the tokens of one sequence, gathered while it is decoded.

#include "autograd/core/tensor.h"

namespace sluice {

class RowCache {
 public:
  /// `shape` is [capacity, ...].
  RowCache(Pool& pool, const Shape& shape, DType dtype)
      : rows_(Tensor::empty(pool, shape, dtype)) {}

  /// Copies `rows` [n, ...] behind what is there. Throws ShapeError when they do not fit.
  void append(const Tensor& rows);
  /// Forgets the rows and keeps the memory.
  void clear() { length_ = 0; }
  /// [capacity, ...], of which the first length() are filled.
  [[nodiscard]] const Tensor& rows() const { return rows_; }
  [[nodiscard]] int64_t length() const { return length_; }
  /// A copy of the filled rows, [length, ...].
  [[nodiscard]] Tensor filled(Pool& pool) const;

 private:
  Tensor rows_;
  int64_t length_ = 0;
};

}  // namespace sluice
