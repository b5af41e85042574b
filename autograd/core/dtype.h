#pragma once
// Element types of tensors, and the only switch over them.

#include <cstdint>
#include <type_traits>

#include "autograd/support/bfloat16.h"
#include "autograd/support/error.h"

namespace sluice {

/// f32 trains, f64 checks gradients, i32 holds token and expert ids, bf16 holds weights for inference
/// (nothing is computed in it: products widen their operands as they pack them).
enum class DType : uint8_t { f32, f64, i32, bf16 };

[[nodiscard]] constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
    case DType::bf16:
      return "bf16";
  }
  return "?";
}

/// Bytes of one element.
[[nodiscard]] constexpr int64_t size_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::bf16 ? 2 : 4;
}

/// Types that are computed in.
[[nodiscard]] constexpr bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64;
}

template <class T>
concept Floating = std::is_same_v<T, float> || std::is_same_v<T, double>;

template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(Floating<T> || std::is_same_v<T, int32_t> || std::is_same_v<T, BFloat16>,
                "no tensor holds this type");
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, BFloat16>) return DType::bf16;
  return DType::i32;
}();

/// Calls `body.operator()<T>()` with T = float or double:
///   dispatch_float(x.dtype(), [&]<class T>() { kernels::scale<T>(...); });
template <class Body>
decltype(auto) dispatch_float(DType dtype, Body&& body) {
  SLUICE_CHECK(DTypeError, is_floating(dtype), "expected f32 or f64, found {}", name_of(dtype));
  if (dtype == DType::f32) return body.template operator()<float>();
  return body.template operator()<double>();
}

}  // namespace sluice
