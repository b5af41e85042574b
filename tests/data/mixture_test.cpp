#include "data/mixture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

TEST(Mixture, GivesEachSourceItsShare) {
  const std::vector<double> weights = {5.0, 1.0, 0.0, 2.5};
  Mixture mixture(weights);
  for (int64_t draw = 1; draw <= 1000; ++draw) {
    (void)mixture.next();
    for (size_t i = 0; i < weights.size(); ++i) {
      const double share = weights[i] / 8.5 * static_cast<double>(draw);
      ASSERT_LE(std::abs(static_cast<double>(mixture.drawn()[i]) - share), 4.0) << draw;
    }
  }
  EXPECT_EQ(mixture.drawn()[2], 0);
}

TEST(Mixture, TakesTurnsBetweenEqualSources) {
  Mixture mixture({2.0, 2.0});
  std::vector<int64_t> draws;
  for (int i = 0; i < 6; ++i) draws.push_back(mixture.next());
  EXPECT_THAT(draws, ElementsAre(0, 1, 0, 1, 0, 1));
}

TEST(Mixture, GoesOnFromItsCounts) {
  Mixture whole({3.0, 1.0, 1.7});
  for (int i = 0; i < 100; ++i) {
    Mixture resumed({3.0, 1.0, 1.7});
    resumed.restore(whole.drawn());
    ASSERT_EQ(resumed.next(), whole.next()) << i;
  }
}

TEST(Mixture, DrawsRunsFromASourceAndGoesOnInTheMiddleOfOne) {
  Mixture whole({3.0, 1.0, 1.7}, 4);
  std::vector<int64_t> draws;
  for (int i = 0; i < 60; ++i) {
    Mixture resumed({3.0, 1.0, 1.7}, 4);
    resumed.restore(whole.drawn());
    draws.push_back(whole.next());
    ASSERT_EQ(resumed.next(), draws.back()) << i;
    if (i % 4 != 0) {
      EXPECT_EQ(draws[i], draws[i - 1]) << i;
    }
  }
  for (size_t i = 0; i < 3; ++i) {
    const double share = std::vector<double>{3.0, 1.0, 1.7}[i] / 5.7 * 60.0;
    EXPECT_NEAR(static_cast<double>(whole.drawn()[i]), share, 3.0 * 4.0);
  }
}

TEST(Mixture, RefusesWeightsThatAddUpToNothing) {
  EXPECT_THROW(Mixture({0.0, 0.0}), InternalError);
  EXPECT_THROW(Mixture({}), InternalError);
  EXPECT_THROW(Mixture({1.0}).restore({1, 2}), InternalError);
}

}  // namespace
}  // namespace sluice
