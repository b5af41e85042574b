#include "autograd/kernels/cpu.h"

#include "autograd/support/error.h"

namespace sluice::kernels {

const char* instruction_set() {
#if defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
  return "avx2";
#else
  return "generic";
#endif
}

void check_processor() {
#if defined(__AVX512F__)
  const bool fits = __builtin_cpu_supports("avx512f") != 0;
#elif defined(__AVX2__) && defined(__FMA__)
  const bool fits = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
#else
  const bool fits = true;
#endif
  SLUICE_CHECK(ConfigError, fits,
               "this program was built for {}, which this processor lacks; build it here, or with "
               "-DSLUICE_MARCH=x86-64-v3 (avx2) or x86-64-v2",
               instruction_set());
}

}  // namespace sluice::kernels
