#include "balance/router_monitor.h"

#include <cmath>

#include "autograd/core/dtype.h"
#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 256;

}  // namespace

RouterMonitor::Sums& RouterMonitor::Sums::operator+=(const Sums& other) {
  tokens += other.tokens;
  entropy += other.entropy;
  logit_norm += other.logit_norm;
  top_margin += other.top_margin;
  chosen_probability += other.chosen_probability;
  return *this;
}

template <class T>
RouterMonitor::Sums RouterMonitor::sums_of(const RoutingObservation& seen, int64_t begin,
                                           int64_t end) {
  const int64_t experts = seen.selection.experts;
  const int64_t k = seen.selection.top_k;
  Sums sums;
  for (int64_t token = begin; token < end; ++token) {
    if (seen.layout.counted[static_cast<size_t>(token)] == 0) continue;
    const T* z = seen.router.logits.data<T>() + token * experts;
    const T* p = seen.router.probabilities.data<T>() + token * experts;
    double squares = 0.0;
    double entropy = 0.0;
    double first = 0.0;
    double second = 0.0;
    for (int64_t i = 0; i < experts; ++i) {
      squares += static_cast<double>(z[i]) * static_cast<double>(z[i]);
      const auto probability = static_cast<double>(p[i]);
      // 0 log 0 is 0. The logarithm is in T: the statistic needs no more, and it is most of the
      // work.
      if (p[i] > T{0}) entropy -= probability * static_cast<double>(std::log(p[i]));
      second = std::max(second, std::min(first, probability));
      first = std::max(first, probability);
    }
    double chosen = 0.0;
    for (int64_t slot = token * k; slot < (token + 1) * k; ++slot) {
      const int32_t expert = seen.selection.expert[static_cast<size_t>(slot)];
      if (expert != kNoExpert) chosen += static_cast<double>(p[expert]);
    }
    sums += {1.0, entropy, std::sqrt(squares), first - second, chosen};
  }
  return sums;
}

void RouterMonitor::observe(const RoutingObservation& observation) {
  sums_[static_cast<size_t>(observation.layer)] +=
      dispatch_float(observation.router.logits.dtype(), [&]<class T>() {
        return parallel_sum<Sums>(
            observation.selection.tokens, kTokenBlock,
            [&](int64_t begin, int64_t end) { return sums_of<T>(observation, begin, end); });
      });
}

void RouterMonitor::reduce(Communicator& communicator) {
  static_assert(sizeof(Sums) == 5 * sizeof(double));
  std::vector<double> values;
  for (const Sums& sums : sums_) {
    values.insert(values.end(), {sums.tokens, sums.entropy, sums.logit_norm, sums.top_margin,
                                 sums.chosen_probability});
  }
  communicator.sum(std::span<double>(values));
  for (size_t layer = 0; layer < sums_.size(); ++layer) {
    const double* of = values.data() + 5 * layer;
    sums_[layer] = {of[0], of[1], of[2], of[3], of[4]};
  }
}

std::vector<RouterStatistics> RouterMonitor::layers() const {
  std::vector<RouterStatistics> result;
  for (const Sums& sums : sums_) {
    if (sums.tokens == 0.0) {
      result.emplace_back();
      continue;
    }
    result.push_back({sums.entropy / sums.tokens, sums.logit_norm / sums.tokens,
                      sums.top_margin / sums.tokens, sums.chosen_probability / sums.tokens});
  }
  return result;
}

}  // namespace sluice
