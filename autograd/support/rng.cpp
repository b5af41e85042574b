#include "autograd/support/rng.h"

#include <cmath>
#include <numbers>

namespace sluice {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;

/// SplitMix64's finaliser: folds the parts of a key that do not fit Philox's 64-bit key.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

}  // namespace

std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> x, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * x[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * x[2];
    x = {static_cast<uint32_t>(product1 >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return x;
}

std::array<uint32_t, 4> random_bits(const RandomKey& key, uint64_t sample, uint64_t index) {
  const uint64_t where = (uint64_t{static_cast<uint32_t>(key.purpose)} << 32) | key.layer;
  const uint64_t folded = mix(mix(mix(key.seed) ^ where) ^ key.step);
  return philox4x32_10({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                        static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32)},
                       static_cast<uint32_t>(folded), static_cast<uint32_t>(folded >> 32));
}

uint64_t random_u64(const RandomKey& key, uint64_t sample, uint64_t index) {
  const auto bits = random_bits(key, sample, index);
  return (uint64_t{bits[0]} << 32) | bits[1];
}

double uniform(const RandomKey& key, uint64_t sample, uint64_t index) {
  return static_cast<double>(random_u64(key, sample, index) >> 11) * 0x1.0p-53;
}

double normal(const RandomKey& key, uint64_t sample, uint64_t index) {
  const auto bits = random_bits(key, sample, index);
  // (0, 1]: the logarithm is finite.
  const double u = (static_cast<double>(bits[0]) + 1.0) * 0x1.0p-32;
  const double v = static_cast<double>(bits[1]) * 0x1.0p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

uint64_t uniform_below(const RandomKey& key, uint64_t sample, uint64_t index, uint64_t bound) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(random_u64(key, sample, index)) * bound;
  return static_cast<uint64_t>(product >> 64);
}

uint64_t hash_name(const char* data, uint64_t size) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (uint64_t i = 0; i < size; ++i) {
    hash = (hash ^ static_cast<unsigned char>(data[i])) * 0x100000001B3ULL;
  }
  return hash;
}

}  // namespace sluice
