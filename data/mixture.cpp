#include "data/mixture.h"

#include <numeric>

#include "autograd/support/error.h"

namespace sluice {

Mixture::Mixture(const std::vector<double>& weights) : shares_(weights), drawn_(weights.size()) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  SLUICE_INTERNAL_CHECK(sum > 0.0, "weights of {} sources add up to {}", weights.size(), sum);
  for (double& share : shares_) share /= sum;
}

int64_t Mixture::next() {
  const auto lag = [&](size_t i) {
    return shares_[i] * static_cast<double>(total_ + 1) - static_cast<double>(drawn_[i]);
  };
  size_t best = shares_.size();
  for (size_t i = 0; i < shares_.size(); ++i) {
    if (shares_[i] > 0.0 && (best == shares_.size() || lag(i) > lag(best))) best = i;
  }
  ++drawn_[best];
  ++total_;
  return static_cast<int64_t>(best);
}

void Mixture::restore(std::vector<int64_t> drawn) {
  SLUICE_INTERNAL_CHECK(drawn.size() == shares_.size(), "counts of {} sources for {}", drawn.size(),
                        shares_.size());
  drawn_ = std::move(drawn);
  total_ = std::accumulate(drawn_.begin(), drawn_.end(), int64_t{0});
}

}  // namespace sluice
