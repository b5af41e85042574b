#include "data/mixture.h"

#include <numeric>

#include "autograd/support/error.h"

namespace sluice {

Mixture::Mixture(const std::vector<double>& weights, int64_t run)
    : shares_(weights), run_(run), drawn_(weights.size()) {
  SLUICE_INTERNAL_CHECK(run > 0, "runs of {} draws", run);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  SLUICE_INTERNAL_CHECK(sum > 0.0, "weights of {} sources add up to {}", weights.size(), sum);
  for (double& share : shares_) share /= sum;
}

size_t Mixture::choose() const {
  // The one in whose run this draw falls, if any: all others have whole runs.
  for (size_t i = 0; i < drawn_.size(); ++i) {
    if (drawn_[i] % run_ != 0) return i;
  }
  const auto lag = [&](size_t i) {
    return shares_[i] * static_cast<double>(total_ + 1) - static_cast<double>(drawn_[i]);
  };
  size_t best = shares_.size();
  for (size_t i = 0; i < shares_.size(); ++i) {
    if (shares_[i] > 0.0 && (best == shares_.size() || lag(i) > lag(best))) best = i;
  }
  return best;
}

int64_t Mixture::next() {
  const size_t chosen = choose();
  ++drawn_[chosen];
  ++total_;
  return static_cast<int64_t>(chosen);
}

void Mixture::restore(std::vector<int64_t> drawn) {
  SLUICE_INTERNAL_CHECK(drawn.size() == shares_.size(), "counts of {} sources for {}", drawn.size(),
                        shares_.size());
  drawn_ = std::move(drawn);
  total_ = std::accumulate(drawn_.begin(), drawn_.end(), int64_t{0});
}

}  // namespace sluice
