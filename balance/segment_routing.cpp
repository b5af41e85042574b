#include "balance/segment_routing.h"

#include <algorithm>
#include <limits>

#include "autograd/support/error.h"

namespace sluice {

SegmentRoutingCounter::SegmentRoutingCounter(int64_t segment)
    : segment_(segment), pairs_(static_cast<size_t>(segment) + 1, 0) {
  SLUICE_INTERNAL_CHECK(segment >= 1, "segments of {} tokens", segment);
}

void SegmentRoutingCounter::add(int64_t experts, const Choices& sequence) {
  const int64_t N = sequence.tokens();
  const int64_t windows = N - segment_ + 1;
  if (windows <= 0) return;
  // An expert's f only changes where it enters or leaves the window: until then its windows are
  // counted at once.
  std::vector<int64_t> active(static_cast<size_t>(experts), 0);  // f in the current window
  std::vector<int64_t> since(static_cast<size_t>(experts), 0);   // the first window with this f
  int64_t window = 0;                                            // in which changes take effect
  const auto change = [&](int64_t token, int64_t by) {
    sequence.each(token, [&](size_t e) {
      pairs_[static_cast<size_t>(active[e])] += window - since[e];
      since[e] = window;
      active[e] += by;
    });
  };
  // Leaving tokens first: no expert has more than m activations in between.
  for (int64_t token = 0; token < N; ++token) {
    window = std::max<int64_t>(token - segment_ + 1, 0);
    if (token >= segment_) change(token - segment_, -1);
    change(token, 1);
  }
  for (size_t e = 0; e < active.size(); ++e) {
    pairs_[static_cast<size_t>(active[e])] += windows - since[e];
  }
}

void SegmentRoutingCounter::add(const SegmentRoutingCounter& other) {
  SLUICE_INTERNAL_CHECK(other.segment_ == segment_, "segments of {} and of {} tokens", segment_,
                        other.segment_);
  for (size_t f = 0; f < pairs_.size(); ++f) pairs_[f] += other.pairs_[f];
}

SegmentRoutingCounter::Sums SegmentRoutingCounter::sums_from(int64_t threshold) const {
  Sums sums;
  for (int64_t f = segment_; f >= threshold; --f) {
    const auto pairs = static_cast<double>(pairs_[static_cast<size_t>(f)]);
    sums.pairs += pairs;
    sums.activations += pairs * static_cast<double>(f);
  }
  return sums;
}

double SegmentRoutingCounter::f1(const Sums& above, double activations) const {
  return 2.0 * above.activations / (static_cast<double>(segment_) * above.pairs + activations);
}

double SegmentRoutingCounter::f1(int64_t threshold) const {
  return f1(sums_from(threshold), sums_from(0).activations);
}

SegmentRouting SegmentRoutingCounter::result() const {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  const double activations = sums_from(0).activations;
  if (activations == 0.0) return {.best_f1 = kNaN, .size_ratio = kNaN};
  SegmentRouting best{.best_f1 = -1.0};
  for (int64_t threshold = 0; threshold <= segment_; ++threshold) {
    const Sums above = sums_from(threshold);
    const double value = f1(above, activations);
    if (value <= best.best_f1) continue;
    best = {.best_f1 = value,
            .size_ratio = static_cast<double>(segment_) * above.pairs / activations,
            .threshold = threshold};
  }
  return best;
}

}  // namespace sluice
