#pragma once
// Element types of arrays in files: what a tensor, a token shard or a counter is stored as.
// (`DType` in autograd/core names the types that tensors compute in.)

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace sluice {

enum class ElementType : uint8_t { f32, f64, i32, i64, u8, u16, u32, u64 };

[[nodiscard]] constexpr const char* name_of(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return "f32";
    case ElementType::f64:
      return "f64";
    case ElementType::i32:
      return "i32";
    case ElementType::i64:
      return "i64";
    case ElementType::u8:
      return "u8";
    case ElementType::u16:
      return "u16";
    case ElementType::u32:
      return "u32";
    case ElementType::u64:
      return "u64";
  }
  return "?";
}

/// Bytes of one element.
[[nodiscard]] constexpr int64_t size_of(ElementType type) {
  switch (type) {
    case ElementType::u8:
      return 1;
    case ElementType::u16:
      return 2;
    case ElementType::f32:
    case ElementType::i32:
    case ElementType::u32:
      return 4;
    case ElementType::f64:
    case ElementType::i64:
    case ElementType::u64:
      return 8;
  }
  return 0;
}

template <class T>
concept Element = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, int32_t> ||
    std::same_as<T, int64_t> || std::same_as<T, uint8_t> || std::same_as<T, uint16_t> ||
    std::same_as<T, uint32_t> || std::same_as<T, uint64_t>;

template <Element T>
inline constexpr ElementType element_type_of = [] {
  if constexpr (std::is_same_v<T, float>) return ElementType::f32;
  if constexpr (std::is_same_v<T, double>) return ElementType::f64;
  if constexpr (std::is_same_v<T, int32_t>) return ElementType::i32;
  if constexpr (std::is_same_v<T, int64_t>) return ElementType::i64;
  if constexpr (std::is_same_v<T, uint8_t>) return ElementType::u8;
  if constexpr (std::is_same_v<T, uint16_t>) return ElementType::u16;
  if constexpr (std::is_same_v<T, uint32_t>) return ElementType::u32;
  return ElementType::u64;
}();

}  // namespace sluice
