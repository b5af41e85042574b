#pragma once
// The instruction set that the program was built for, and whether this processor has it.

#include <span>
#include <string_view>

namespace sluice {

/// "x86-64 avx512", "x86-64 avx2 fma", "x86-64 avx", "x86-64 sse2", "aarch64" or "other".
[[nodiscard]] const char* instruction_set();

/// What a processor may lack.
struct CpuFeature {
  std::string_view name;
  bool present;
};

/// Throws ConfigError, one sentence, when one of them is not present.
void check_features(std::span<const CpuFeature> features);

/// Throws ConfigError when this processor lacks what the program was built for: one sentence instead
/// of an illegal instruction when a binary built with -march=native is carried to an older machine.
void check_processor();

}  // namespace sluice
