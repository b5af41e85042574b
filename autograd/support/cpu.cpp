#include "autograd/support/cpu.h"

#include <array>

#include "autograd/support/error.h"

namespace sluice {

const char* instruction_set() {
#if defined(__AVX512F__)
  return "x86-64 avx512";
#elif defined(__AVX2__) && defined(__FMA__)
  return "x86-64 avx2 fma";
#elif defined(__AVX__)
  return "x86-64 avx";
#elif defined(__x86_64__)
  return "x86-64 sse2";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "other";
#endif
}

void check_features(std::span<const CpuFeature> features) {
  for (const CpuFeature& feature : features) {
    SLUICE_CHECK(ConfigError, feature.present,
                 "this program was built for {}, and this processor lacks {}; build it here, or "
                 "for every processor with scripts/build-portable",
                 instruction_set(), feature.name);
  }
}

void check_processor() {
#if defined(__AVX512F__)
  check_features(std::to_array<CpuFeature>({{"avx512f", __builtin_cpu_supports("avx512f") != 0},
                                            {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
                                            {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
                                            {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
                                            {"fma", __builtin_cpu_supports("fma") != 0}}));
#elif defined(__AVX2__) && defined(__FMA__)
  check_features(std::to_array<CpuFeature>({{"avx2", __builtin_cpu_supports("avx2") != 0},
                                            {"fma", __builtin_cpu_supports("fma") != 0}}));
#elif defined(__AVX__)
  check_features(std::to_array<CpuFeature>({{"avx", __builtin_cpu_supports("avx") != 0}}));
#endif
}

}  // namespace sluice
