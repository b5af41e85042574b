#include "bench/report/paired_ratio.h"

#include <gtest/gtest.h>

namespace sluice::bench {
namespace {

TEST(PairedRatio, TakesTheMedianOfTheRoundsNotOfTheTimes) {
  // The machine is three times slower in every other round; B takes 0.9 of A in each.
  const std::vector<double> a{1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0};
  std::vector<double> b;
  for (const double time : a) b.push_back(0.9 * time);
  const PairedRatio ratio = paired_ratio(a, b);
  EXPECT_DOUBLE_EQ(ratio.median, 0.9);
  EXPECT_DOUBLE_EQ(ratio.q1, 0.9);
  EXPECT_DOUBLE_EQ(ratio.q3, 0.9);
  EXPECT_DOUBLE_EQ(ratio.chance, 2.0 / 128);
  EXPECT_EQ(verdict_of(ratio), Verdict::lower);
  EXPECT_EQ(verdict_of(paired_ratio(b, a)), Verdict::higher);
}

TEST(PairedRatio, GivesTheChanceOfTheSignTest) {
  const std::vector<double> ones(10, 1.0);
  // 8 of 10: (1 + 10 + 45) / 1024, on both sides.
  EXPECT_DOUBLE_EQ(paired_ratio(ones, {2, 2, 2, 2, 2, 2, 2, 2, 0.5, 0.5}).chance, 2 * 56.0 / 1024);
  EXPECT_DOUBLE_EQ(paired_ratio(ones, {2, 2, 2, 2, 2, 2, 2, 2, 2, 0.5}).chance, 2 * 11.0 / 1024);
  EXPECT_DOUBLE_EQ(paired_ratio(ones, {2, 2, 2, 2, 2, .5, .5, .5, .5, .5}).chance, 1.0);
}

TEST(PairedRatio, CountsEqualRoundsForNeitherSide) {
  const std::vector<double> ones(8, 1.0);
  EXPECT_DOUBLE_EQ(paired_ratio(ones, ones).chance, 1.0);
  EXPECT_DOUBLE_EQ(paired_ratio(ones, {2, 2, 2, 2, 1, 1, 1, 1}).chance, 2.0 / 16);
}

TEST(Verdict, WantsMoreThanChanceAndMoreThanOnePercent) {
  EXPECT_EQ(verdict_of({.median = 1.2, .chance = 0.05}), Verdict::no_difference);
  EXPECT_EQ(verdict_of({.median = 1.2, .chance = 0.04}), Verdict::higher);
  EXPECT_EQ(verdict_of({.median = 1.009, .chance = 0.001}), Verdict::no_difference);
  EXPECT_EQ(verdict_of({.median = 0.98, .chance = 0.001}), Verdict::lower);
}

TEST(Verdict, CanBeReachedFromTheFewestRoundsOnAndNotBefore) {
  const auto all_above = [](int rounds) {
    const std::vector<double> ones(static_cast<size_t>(rounds), 1.0);
    const std::vector<double> twos(static_cast<size_t>(rounds), 2.0);
    return verdict_of(paired_ratio(ones, twos));
  };
  EXPECT_EQ(all_above(kFewestRounds), Verdict::higher);
  EXPECT_EQ(all_above(kFewestRounds - 1), Verdict::no_difference);
}

}  // namespace
}  // namespace sluice::bench
