#include "autograd/core/tensor.h"

#include <algorithm>
#include <cstring>

#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kCopyBlockBytes = int64_t{1} << 20;

}  // namespace

void Tensor::check_dtype(DType wanted) const {
  SLUICE_INTERNAL_CHECK(defined(), "an undefined tensor was read");
  SLUICE_CHECK(DTypeError, dtype_ == wanted, "tensor {} is {}, read as {}", shape_, name_of(dtype_),
               name_of(wanted));
}

Tensor Tensor::empty(Pool& pool, const Shape& shape, DType dtype, MemoryKind kind) {
  Tensor result;
  result.shape_ = shape;
  result.dtype_ = dtype;
  result.block_ = pool.allocate(shape.numel() * size_of(dtype), kind);
  return result;
}

Tensor Tensor::zeros(Pool& pool, const Shape& shape, DType dtype, MemoryKind kind) {
  Tensor result = empty(pool, shape, dtype, kind);
  result.fill_zero();
  return result;
}

template <class T>
Tensor Tensor::of(Pool& pool, const Shape& shape, std::span<const T> values) {
  SLUICE_CHECK(ShapeError, static_cast<int64_t>(values.size()) == shape.numel(),
               "tensor of shape {} needs {} values, found {}", shape, shape.numel(), values.size());
  Tensor result = empty(pool, shape, dtype_of<T>);
  if (result.has_memory()) std::copy(values.begin(), values.end(), result.data<T>());
  return result;
}
template Tensor Tensor::of<float>(Pool&, const Shape&, std::span<const float>);
template Tensor Tensor::of<double>(Pool&, const Shape&, std::span<const double>);
template Tensor Tensor::of<int32_t>(Pool&, const Shape&, std::span<const int32_t>);

Tensor Tensor::reshaped(const Shape& shape) const {
  SLUICE_CHECK(ShapeError, shape.numel() == numel(), "reshape: {} has {} elements but {} has {}",
               shape_, numel(), shape, shape.numel());
  Tensor result = detached();
  result.shape_ = shape;
  return result;
}

Tensor Tensor::detached() const {
  Tensor result = *this;
  result.value_ = -1;
  result.tape_ = 0;
  return result;
}

Tensor Tensor::clone(Pool& pool, MemoryKind kind) const {
  Tensor result = empty(pool, shape_, dtype_, kind);
  result.copy_from(*this);
  return result;
}

Tensor Tensor::rounded_to_bf16(Pool& pool, MemoryKind kind) const {
  check_dtype(DType::f32);
  Tensor result = empty(pool, shape_, DType::bf16, kind);
  if (!has_memory() || !result.has_memory()) return result;
  const float* source = data<float>();
  auto* target = result.data<BFloat16>();
  constexpr int64_t kBlock = kCopyBlockBytes / static_cast<int64_t>(sizeof(float));
  parallel_for_ranges(numel(), kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) target[i] = sluice::rounded_to_bf16(source[i]);
  });
  return result;
}

void Tensor::fill_zero() {
  if (!has_memory()) return;
  std::byte* target = block_.data();
  parallel_for_ranges(bytes(), kCopyBlockBytes, [&](int64_t begin, int64_t end) {
    std::memset(target + begin, 0, static_cast<size_t>(end - begin));
  });
}

void Tensor::copy_from(const Tensor& other) {
  SLUICE_CHECK(DTypeError, other.dtype_ == dtype_, "copy: source is {}, target is {}",
               name_of(other.dtype_), name_of(dtype_));
  SLUICE_CHECK(ShapeError, other.numel() == numel(), "copy: source is {}, target is {}",
               other.shape_, shape_);
  if (!has_memory() || !other.has_memory()) return;
  const std::byte* source = other.block_.data();
  std::byte* target = block_.data();
  parallel_for_ranges(bytes(), kCopyBlockBytes, [&](int64_t begin, int64_t end) {
    std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin));
  });
}

double Tensor::item() const {
  SLUICE_CHECK(ShapeError, numel() == 1, "item: expected one element, found shape {}", shape_);
  if (!has_memory()) return 0.0;
  return dispatch_float(dtype_, [&]<class T>() { return static_cast<double>(*data<T>()); });
}

}  // namespace sluice
