#include <fmt/format.h>

#include "train/checkpoint/checkpoint.h"

namespace sluice {
namespace {

// What the kernels were compiled for; a wider set means other sums in the same places.
constexpr const char* instruction_set() {
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

}  // namespace

std::string build_fingerprint() {
#if defined(__clang__)
  constexpr const char* kCompiler = "clang ";
#else
  constexpr const char* kCompiler = "gcc ";
#endif
  return fmt::format("{}{}, {}", kCompiler, __VERSION__, instruction_set());
}

}  // namespace sluice
