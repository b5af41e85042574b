#include "balance/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "layers/routing.h"

namespace sluice {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Pointwise;

/// Half a unit of the last printed decimal.
constexpr double kSixDecimals = 5e-7;
constexpr double kThreeDecimals = 5e-4;

/// The page's fixture F1: four tokens, four experts, top-2.
const std::vector<int32_t> kF1 = {0, 1, 1, 0, 0, 2, 2, 3};

TEST(Coactivation, AgreesWithTheWorkedExample) {
  Coactivation together(4);
  together.add({kF1, 2});
  EXPECT_THAT(together.shares(),
              Pointwise(DoubleNear(kSixDecimals), std::vector<double>{0, .666667, .333333, 0,  //
                                                                      1, 0, 0, 0,              //
                                                                      .5, 0, 0, .5,            //
                                                                      0, 0, 1, 0}));
  EXPECT_THAT(together.counts(), ElementsAre(3, 2, 1, 0, 2, 2, 0, 0, 1, 0, 2, 1, 0, 0, 1, 1));
}

TEST(Coactivation, CountsEachExpertOfATokenOnceAndCountedTokensOnly) {
  const std::vector<int32_t> slots = {2, 2, kNoExpert, 0, 1, 2};
  const std::vector<uint8_t> counted = {1, 0};
  Coactivation together(3);
  together.add({slots, 3, counted});
  EXPECT_THAT(together.counts(), ElementsAre(0, 0, 0, 0, 0, 0, 0, 0, 1));
}

TEST(Coactivation, OfNobodyIsZero) { EXPECT_THAT(Coactivation(2).shares(), Each(0.0)); }

TEST(ChoiceOverlap, AgreesWithTheWorkedExample) {
  const std::vector<int32_t> before = {0, 1, 1, 2, 0, 3};
  const std::vector<int32_t> after = {0, 2, 1, 2, 1, 3};
  const ChoiceOverlap overlap = choice_overlap({before, 2}, {after, 2});
  EXPECT_DOUBLE_EQ(overlap.saturation(), 2.0 / 3.0);
  EXPECT_DOUBLE_EQ(overlap.fluctuation(), 1.0 / 3.0);
  EXPECT_DOUBLE_EQ(overlap.changed_share(), 2.0 / 3.0);
}

TEST(ChoiceOverlap, IgnoresTheOrderOfSlots) {
  const std::vector<int32_t> before = {0, 1, 3, 2};
  const std::vector<int32_t> after = {1, 0, 2, 3};
  const ChoiceOverlap overlap = choice_overlap({before, 2}, {after, 2});
  EXPECT_EQ(overlap.saturation(), 1.0);
  EXPECT_EQ(overlap.changed, 0);
}

TEST(ChoiceOverlap, TakesAnotherNumberOfExpertsAsAnotherChoice) {
  const std::vector<int32_t> before = {0, 1, 2, kNoExpert};
  const std::vector<int32_t> after = {0, 2};
  const ChoiceOverlap overlap = choice_overlap({before, 2}, {after, 1});
  EXPECT_DOUBLE_EQ(overlap.overlap, 0.5 + 1.0);
  EXPECT_EQ(overlap.changed, 1);
}

TEST(ChoiceOverlap, OfTokensWithoutExpertsIsFull) {
  const std::vector<int32_t> nobody = {kNoExpert, kNoExpert};
  const std::vector<int32_t> somebody = {kNoExpert, 1};
  EXPECT_EQ(choice_overlap({nobody, 1}, {nobody, 1}).saturation(), 1.0);
  EXPECT_EQ(choice_overlap({nobody, 1}, {somebody, 1}).saturation(), 0.5);
  EXPECT_EQ(ChoiceOverlap().saturation(), 1.0);
}

TEST(Specialisation, CountsAssignmentsPerTokenOfTheDomain) {
  const std::vector<int64_t> chosen = {3, 2, 2, 1};
  EXPECT_THAT(specialisation(chosen, 4), ElementsAre(.75, .5, .5, .25));
  EXPECT_THAT(specialisation(chosen, 0), Each(0.0));
}

TEST(Specialisation, OfARouterThatDoesNotLookIsTheBaseline) {
  const std::vector<std::vector<int64_t>> chosen = {{5, 5, 5, 5}, {20, 20, 20, 20}};
  const std::vector<int64_t> tokens = {10, 40};
  const SpecialisationSummary summary = summarise_specialisation(chosen, tokens);
  EXPECT_THAT(summary.peak, ElementsAre(DoubleEq(1.0), DoubleEq(1.0)));
  EXPECT_DOUBLE_EQ(summary.mean_peak, 1.0);
  EXPECT_EQ(summary.specialised_experts, 0);
  EXPECT_NEAR(summary.information, 0.0, 1e-15);
}

TEST(Specialisation, OfDomainsWithExpertsOfTheirOwnIsAtItsBest) {
  // Top-2 of 4 experts; each domain has two to itself.
  const std::vector<std::vector<int64_t>> chosen = {{8, 8, 0, 0}, {0, 0, 8, 8}, {0, 0, 0, 0}};
  const std::vector<int64_t> tokens = {8, 8, 0};
  const SpecialisationSummary summary = summarise_specialisation(chosen, tokens);
  EXPECT_THAT(summary.peak, ElementsAre(DoubleEq(2.0), DoubleEq(2.0), DoubleEq(0.0)));
  EXPECT_DOUBLE_EQ(summary.mean_peak, 2.0);
  EXPECT_EQ(summary.specialised_experts, 4);
  EXPECT_NEAR(summary.information, std::log(2.0), 1e-15);
}

TEST(Specialisation, InformationIgnoresLoadsThatAreUnevenInEveryDomainAlike) {
  const std::vector<std::vector<int64_t>> chosen = {{9, 3}, {18, 6}};
  const std::vector<int64_t> tokens = {12, 24};
  const SpecialisationSummary summary = summarise_specialisation(chosen, tokens);
  EXPECT_DOUBLE_EQ(summary.mean_peak, 1.5);
  EXPECT_NEAR(summary.information, 0.0, 1e-15);
}

TEST(Specialisation, OfNothingIsZero) {
  const std::vector<std::vector<int64_t>> chosen = {{0, 0}};
  const std::vector<int64_t> tokens = {0};
  const SpecialisationSummary summary = summarise_specialisation(chosen, tokens);
  EXPECT_EQ(summary.mean_peak, 0.0);
  EXPECT_EQ(summary.information, 0.0);
}

TEST(CongestionCoefficient, AgreesWithTheWorkedExample) {
  const std::vector<double> quality = {.8, .3, 0, -.4, -.7};
  const std::vector<double> share = {.283385, .227402, .196557, .158985, .133671};
  const auto gamma = congestion_coefficient(share, quality);
  ASSERT_TRUE(gamma.has_value());
  EXPECT_NEAR(*gamma, 5.000, kThreeDecimals);
}

TEST(CongestionCoefficient, IsZeroWhereLoadFollowsQuality) {
  const std::vector<double> quality = {1.0, 0.0, -1.0};
  const std::vector<double> share = {std::exp(1.0), 1.0, std::exp(-1.0)};
  EXPECT_NEAR(congestion_coefficient(share, quality).value(), 0.0, 1e-14);
}

TEST(CongestionCoefficient, LeavesOutExpertsWithoutLoad) {
  const std::vector<double> quality = {.8, 100.0, 0, -.4};
  const std::vector<double> share = {.5, 0.0, .3, .2};
  EXPECT_EQ(congestion_coefficient(share, quality),
            congestion_coefficient(std::vector{.5, .3, .2}, std::vector{.8, 0.0, -.4}));
}

TEST(CongestionCoefficient, IsUnknownWhereLoadsDoNotDiffer) {
  const std::vector<double> quality = {1.0, 2.0, 3.0};
  EXPECT_FALSE(congestion_coefficient(std::vector(3, 1.0 / 3.0), quality).has_value());
  EXPECT_FALSE(congestion_coefficient(std::vector{0.0, 1.0, 0.0}, quality).has_value());
  EXPECT_FALSE(congestion_coefficient(std::vector{.2, .3, .5}, std::vector<double>{1.0, NAN, 2.0})
                   .has_value());
}

}  // namespace
}  // namespace sluice
