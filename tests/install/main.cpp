// An external program: sums numbers with the installed library's parallel loop and reports the back
// end.
#include <cstdint>
#include <cstdio>

#include "autograd/support/parallel.h"

int main() {
  const auto sum = sluice::parallel_sum<int64_t>(1000, 64, [](int64_t begin, int64_t end) {
    int64_t partial = 0;
    for (int64_t i = begin; i < end; ++i) partial += i;
    return partial;
  });
  std::printf("%s: %lld\n", sluice::parallel_backend(), static_cast<long long>(sum));
  return sum == 499500 ? 0 : 1;
}
