#include "bench/gemm_libraries.h"

#include <algorithm>
#include <array>

#include "autograd/kernels/gemm_eigen.h"
#include "autograd/support/parallel.h"
#include "bench/clock.h"
#include "bench/random_floats.h"
#include "bench/statistics.h"
#if defined(SLUICE_WITH_DNNL)
#include "bench/gemm_dnnl.h"
#endif

namespace sluice::bench {
namespace {

using Size = kernels::GemmSize;
using Operand = kernels::GemmOperand<float>;
using Result = kernels::GemmResult<float>;

/// Eigen's product is serial, as ours calls a library: every thread takes a range of C's rows, or of
/// its columns where there are more of them.
void gemm_eigen_on_all_threads(Size size, Operand a, Operand b, Result c) {
  const bool by_rows = size.M >= size.N;
  const int64_t n = by_rows ? size.M : size.N;
  parallel_for_ranges(n, ceil_div(n, num_threads()), [&](int64_t begin, int64_t end) {
    Size part = size;
    Operand left = a;
    Operand right = b;
    Result result = c;
    if (by_rows) {
      part.M = end - begin;
      left.data += a.transposed ? begin : begin * a.stride;
      result.data += begin * c.stride;
    } else {
      part.N = end - begin;
      right.data += b.transposed ? begin * b.stride : begin;
      result.data += begin;
    }
    kernels::gemm_eigen<float>(part, left, right, result);
  });
}

}  // namespace

std::span<const GemmLibrary> gemm_libraries() {
  static constexpr auto kLibraries = std::to_array<GemmLibrary>({
    {"own", kernels::gemm<float>}, {"eigen", gemm_eigen_on_all_threads},
#if defined(SLUICE_WITH_DNNL)
        {"onednn", gemm_dnnl},
#endif
  });
  return kLibraries;
}

void GemmRates::add(const GemmRates& other) {
  for (const auto& [library, rates] : other.rates_) {
    rates_[library].insert(rates_[library].end(), rates.begin(), rates.end());
  }
}

double GemmRates::of(const std::string& library) const {
  const auto found = rates_.find(library);
  return found == rates_.end() ? 0.0 : median(found->second);
}

double GemmRates::best() const {
  double best = 0.0;
  for (const auto& [library, rates] : rates_) best = std::max(best, median(rates));
  return best;
}

GemmYardstick::GemmYardstick()
    : a_(random_floats(kSize * kSize, 1)),
      b_(random_floats(kSize * kSize, 2)),
      c_(static_cast<size_t>(kSize * kSize)) {}

GemmRates GemmYardstick::measure() {
  GemmRates rates;
  for (int i = 0; i < kProducts; ++i) {
    for (const GemmLibrary& library : gemm_libraries()) {
      const double start = wall_seconds();
      library.gemm({kSize, kSize, kSize}, {a_.data(), kSize}, {b_.data(), kSize},
                   {c_.data(), kSize});
      rates.add(library.name, 2.0 * kSize * kSize * kSize / (wall_seconds() - start));
    }
  }
  return rates;
}

}  // namespace sluice::bench
