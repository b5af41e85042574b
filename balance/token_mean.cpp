#include "balance/token_mean.h"

namespace sluice {

void TokenMean::add(std::span<const double> values, int64_t tokens) {
  sums_.resize(values.size() + 1, 0.0);
  const auto weight = static_cast<double>(tokens);
  for (size_t e = 0; e < values.size(); ++e) sums_[e] += weight * values[e];
  sums_.back() += weight;
}

void TokenMean::reduce(Communicator& communicator, size_t experts) {
  sums_.resize(experts + 1, 0.0);
  communicator.sum(std::span<double>(sums_));
}

std::vector<double> TokenMean::take() {
  std::vector<double> mean;
  if (!sums_.empty() && sums_.back() > 0.0) {
    mean.assign(sums_.begin(), sums_.end() - 1);
    for (double& value : mean) value /= sums_.back();
  }
  sums_.clear();
  return mean;
}

}  // namespace sluice
