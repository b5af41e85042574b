#pragma once
// One benchmark of two builds, measured in rounds: in every round both, one right after the other, so
// that what the machine does in a round happens to both. What is compared is the ratio of a round.

#include <string>
#include <vector>

namespace sluice::bench {

/// The ratios of rounds, B over A.
struct PairedRatio {
  double median = 1.0;
  double q1 = 1.0;
  double q3 = 1.0;
  /// Chance that rounds fall to one side of 1 as unevenly as they do, or more, when neither build is
  /// the larger one (two-sided sign test; rounds with equal values count for neither side).
  double chance = 1.0;
};

[[nodiscard]] PairedRatio paired_ratio(const std::vector<double>& a, const std::vector<double>& b);

enum class Verdict { lower, no_difference, higher };

/// A difference is called one when chance alone gives it in less than one of 20 comparisons and it
/// is at least 1 %: less is within what the layout of a binary in memory does.
inline constexpr double kLargestChance = 0.05;
inline constexpr double kSmallestDifference = 0.01;
/// Fewer rounds cannot get below kLargestChance.
inline constexpr int kFewestRounds = 6;

[[nodiscard]] Verdict verdict_of(const PairedRatio& ratio);

}  // namespace sluice::bench
