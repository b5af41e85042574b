#pragma once
// A running 64-bit hash (XXH64) of values: names cache files and tells whether data has changed.
// Not cryptographic. A number is hashed as its bytes on a little-endian machine.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "autograd/support/checksum.h"

namespace sluice {

class Fingerprint {
 public:
  /// A string: its length, then its bytes, so that ("ab", "c") and ("a", "bc") differ.
  void add(std::string_view text);
  template <class T>
  requires std::is_arithmetic_v<T>
  void add(T value) { hash_.update(std::as_bytes(std::span(&value, 1))); }
  /// An array: its length, then its elements.
  template <class T>
  requires std::is_arithmetic_v<T>
  void add(const std::vector<T>& values) {
    add(static_cast<uint64_t>(values.size()));
    hash_.update(std::as_bytes(std::span(values)));
  }
  [[nodiscard]] uint64_t value() const { return hash_.digest(); }
  /// Sixteen hexadecimal digits.
  [[nodiscard]] std::string hex() const;

 private:
  Xxh64 hash_;
};

}  // namespace sluice
