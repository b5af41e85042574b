#include "layers/routers/initial_logits.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kLogits = int64_t{1} << 17;  // drawn in all
constexpr int64_t kFewestSamples = 64;
constexpr int64_t kMostSamples = 8192;
constexpr int64_t kSampleBlock = 16;

}  // namespace

double mean_over_initial_logits(int64_t experts, double std,
                                FunctionRef<double(std::span<double>, uint64_t)> count) {
  const int64_t samples = std::clamp(kLogits / experts, kFewestSamples, kMostSamples);
  const double total = parallel_sum<double>(samples, kSampleBlock, [&](int64_t begin, int64_t end) {
    std::vector<double> z(static_cast<size_t>(experts));
    double sum = 0.0;
    for (int64_t s = begin; s < end; ++s) {
      const auto sample = static_cast<uint64_t>(s);
      for (size_t e = 0; e < z.size(); ++e) z[e] = std * normal(kInitialLogitsKey, sample, e);
      sum += count(z, sample);
    }
    return sum;
  });
  return total / static_cast<double>(samples);
}

void softmax_inplace(std::span<double> logits) {
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (double& z : logits) sum += z = std::exp(z - greatest);
  for (double& z : logits) z /= sum;
}

}  // namespace sluice
