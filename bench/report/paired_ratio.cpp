#include "bench/report/paired_ratio.h"

#include <algorithm>
#include <cmath>

#include "autograd/support/error.h"
#include "bench/statistics.h"

namespace sluice::bench {
namespace {

/// Chance of at most `fewer` heads or at most `fewer` tails in `n` throws of a coin.
double sign_test(int n, int fewer) {
  double chance = 0.0;
  double ways = 1.0;  // n over k
  for (int k = 0; k <= fewer; ++k) {
    chance += ways;
    ways *= static_cast<double>(n - k) / static_cast<double>(k + 1);
  }
  return std::min(1.0, 2.0 * std::ldexp(chance, -n));
}

}  // namespace

PairedRatio paired_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  SLUICE_INTERNAL_CHECK(a.size() == b.size() && !a.empty(), "{} values of A and {} of B", a.size(),
                        b.size());
  std::vector<double> ratios;
  int below = 0;
  int above = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ratios.push_back(b[i] / a[i]);
    below += ratios.back() < 1.0;
    above += ratios.back() > 1.0;
  }
  return {.median = median(ratios),
          .q1 = quantile(ratios, 0.25),
          .q3 = quantile(ratios, 0.75),
          .chance = sign_test(below + above, std::min(below, above))};
}

Verdict verdict_of(const PairedRatio& ratio) {
  if (ratio.chance >= kLargestChance || std::abs(ratio.median - 1.0) < kSmallestDifference) {
    return Verdict::no_difference;
  }
  return ratio.median < 1.0 ? Verdict::lower : Verdict::higher;
}

}  // namespace sluice::bench
