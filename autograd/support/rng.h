#pragma once
// Counter-based random numbers (Philox4x32-10; Salmon, Moraes, Dror, Shaw 2011, "Parallel random
// numbers: as easy as 1, 2, 3"). A number is a pure function of its key and its counter: there is
// no state to save, and neither threads, micro-batches, recomputation nor resume can change it.
//
//   const RandomKey key{seed, RandomPurpose::dropout, layer, step};
//   float u = uniform(key, global_sample, position * width + column);   // in [0, 1)

#include <array>
#include <cstdint>

namespace sluice {

/// What a stream is for. Two purposes never share numbers. The values are stored nowhere, but
/// changing one changes every run: append only.
enum class RandomPurpose : uint32_t {
  init = 1,
  dropout = 2,
  router_jitter = 3,
  router_noise = 4,
  shuffle = 5,
  mixture = 6,
  sampling = 7,
  test = 8,
  hold_out = 9,
  synthetic = 10,
  tokenizer_sample = 11,
  transport_draw = 12,
  transport_noise = 13,
  router_choice = 14,
  expert_pool = 15,
};

struct RandomKey {
  uint64_t seed = 0;
  RandomPurpose purpose = RandomPurpose::test;
  uint32_t layer = 0;
  uint64_t step = 0;
};

/// The generator itself: ten rounds on a 128-bit counter under a 64-bit key.
[[nodiscard]] std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, uint32_t key0,
                                                    uint32_t key1);
/// 128 random bits for (key, sample, index).
[[nodiscard]] std::array<uint32_t, 4> random_bits(const RandomKey& key, uint64_t sample,
                                                  uint64_t index);
/// 64 random bits.
[[nodiscard]] uint64_t random_u64(const RandomKey& key, uint64_t sample, uint64_t index);
/// Uniform in [0, 1), 53 bits.
[[nodiscard]] double uniform(const RandomKey& key, uint64_t sample, uint64_t index);
/// Standard normal (Box-Muller on two 32-bit uniforms; |x| < 6.7).
[[nodiscard]] double normal(const RandomKey& key, uint64_t sample, uint64_t index);
/// Uniform integer in [0, bound), bound >= 1; unbiased to 2^-64 * bound.
[[nodiscard]] uint64_t uniform_below(const RandomKey& key, uint64_t sample, uint64_t index,
                                     uint64_t bound);
/// 64-bit FNV-1a: turns a parameter name into a `sample`.
[[nodiscard]] uint64_t hash_name(const char* data, uint64_t size);

}  // namespace sluice
