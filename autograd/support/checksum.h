#pragma once
// Checksums: XXH64 for our own files and state, CRC-32C where a foreign format asks for it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace sluice {

/// XXH64 with seed 0 (xxHash specification 0.8). Of no bytes: 0xEF46DB3751D8E999.
[[nodiscard]] uint64_t xxh64(std::span<const std::byte> bytes);

/// XXH64 of a stream of pieces; equal to xxh64 of the pieces joined.
class Xxh64 {
 public:
  Xxh64();
  void update(std::span<const std::byte> bytes);
  [[nodiscard]] uint64_t digest() const;

 private:
  struct Free {
    void operator()(void* state) const;
  };
  std::unique_ptr<void, Free> state_;
};

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4): "123456789" gives 0xE3069283.
[[nodiscard]] uint32_t crc32c(std::span<const std::byte> bytes);

}  // namespace sluice
