#pragma once
// Where a kernel reads a matrix that may be stored in bf16: elements of T, or, for T = float,
// bfloat16 ones that are widened as operands are packed.

#include <concepts>
#include <cstdint>

#include "autograd/support/bfloat16.h"

namespace sluice::kernels {

template <class T>
class Stored {
 public:
  Stored() = default;
  Stored(const T* elements)  // NOLINT(google-explicit-constructor): a plain array is the usual case
      : wide_(elements) {}
  [[nodiscard]] static Stored of(const BFloat16* elements) requires std::same_as<T, float> {
    Stored result;
    result.narrow_ = elements;
    return result;
  }

  /// The elements where they are T; null where they are narrower.
  [[nodiscard]] const T* plain() const { return wide_; }
  /// body(pointer) with the pointer to the elements as they are stored.
  template <class Body>
  void visit(Body&& body) const {
    if constexpr (std::same_as<T, float>) {
      if (narrow_ != nullptr) return body(narrow_);
    }
    body(wide_);
  }
  [[nodiscard]] T operator[](int64_t i) const {
    return narrow_ == nullptr ? wide_[i] : static_cast<T>(widened(narrow_[i]));
  }
  Stored& operator+=(int64_t n) {
    if (narrow_ != nullptr) {
      narrow_ += n;
    } else {
      wide_ += n;
    }
    return *this;
  }
  [[nodiscard]] friend Stored operator+(Stored x, int64_t n) { return x += n; }

 private:
  const T* wide_ = nullptr;
  const BFloat16* narrow_ = nullptr;
};

}  // namespace sluice::kernels
