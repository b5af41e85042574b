#include "train/loss_history.h"

#include <algorithm>
#include <cmath>

namespace sluice {

std::optional<double> LossHistory::deviation(double loss) const {
  constexpr double kSmallestShareOfMean = 1e-6;
  const auto count = static_cast<double>(losses_.size());
  if (static_cast<int64_t>(losses_.size()) < kFewest) return std::nullopt;
  double mean = 0.0;
  for (const double past : losses_) mean += past / count;
  double squares = 0.0;
  for (const double past : losses_) squares += (past - mean) * (past - mean);
  const double deviation =
      std::max(std::sqrt(squares / (count - 1.0)), kSmallestShareOfMean * std::abs(mean));
  return deviation > 0.0 ? std::optional((loss - mean) / deviation) : std::nullopt;
}

void LossHistory::add(double loss) {
  losses_.push_back(loss);
  if (static_cast<int64_t>(losses_.size()) > kLength) losses_.erase(losses_.begin());
}

}  // namespace sluice
