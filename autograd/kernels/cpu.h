#pragma once
// The instruction set the kernels were built for, and whether this processor has it.

namespace sluice::kernels {

/// "avx512", "avx2" (with FMA) or "generic".
[[nodiscard]] const char* instruction_set();

/// Throws ConfigError when this processor lacks what the kernels were built for: one sentence
/// instead of an illegal instruction when a binary built with -march=native is carried to an older
/// machine.
void check_processor();

}  // namespace sluice::kernels
