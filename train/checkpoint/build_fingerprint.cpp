#include <fmt/format.h>

#include "autograd/support/cpu.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {

std::string build_fingerprint() {
#if defined(__clang__)
  constexpr const char* kCompiler = "clang ";
#else
  constexpr const char* kCompiler = "gcc ";
#endif
  // The instruction set of the kernels: a wider one means other sums in the same places.
  return fmt::format("{}{}, {}", kCompiler, __VERSION__, instruction_set());
}

}  // namespace sluice
