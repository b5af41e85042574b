#include "train/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<int32_t> tokens_of(const std::vector<TokenProbability>& distribution) {
  std::vector<int32_t> tokens;
  for (const TokenProbability& item : distribution) tokens.push_back(item.token);
  return tokens;
}

std::vector<double> probabilities_of(const std::vector<TokenProbability>& distribution) {
  std::vector<double> probabilities;
  for (const TokenProbability& item : distribution) probabilities.push_back(item.probability);
  return probabilities;
}

/// Sums and quotients of a few numbers near 1.
constexpr double kRounding = 8.0 * std::numeric_limits<double>::epsilon();

void expect_distribution(const std::vector<TokenProbability>& actual,
                         const std::vector<TokenProbability>& expected) {
  ASSERT_EQ(tokens_of(actual), tokens_of(expected));
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i].probability, expected[i].probability, kRounding) << "place " << i;
  }
}

// Probabilities 1/10, 4/10, 2/10, 3/10.
const std::vector<double> kLogits = {std::log(1.0), std::log(4.0), std::log(2.0), std::log(3.0)};

TEST(SamplingDistribution, IsTheSoftmaxLikeliestFirst) {
  expect_distribution(sampling_distribution(kLogits, {}), {{1, 0.4}, {3, 0.3}, {2, 0.2}, {0, 0.1}});
}

TEST(SamplingDistribution, RaisesProbabilitiesToTheInverseTemperature) {
  expect_distribution(sampling_distribution(kLogits, {.temperature = 0.5}),
                      {{1, 16.0 / 30.0}, {3, 9.0 / 30.0}, {2, 4.0 / 30.0}, {0, 1.0 / 30.0}});
  const double total = 1.0 + std::sqrt(4.0) + std::sqrt(2.0) + std::sqrt(3.0);
  expect_distribution(sampling_distribution(kLogits, {.temperature = 2.0}),
                      {{1, 2.0 / total},
                       {3, std::sqrt(3.0) / total},
                       {2, std::sqrt(2.0) / total},
                       {0, 1.0 / total}});
}

TEST(SamplingDistribution, KeepsTheTopKAndRenormalises) {
  expect_distribution(sampling_distribution(kLogits, {.top_k = 2}),
                      {{1, 4.0 / 7.0}, {3, 3.0 / 7.0}});
  EXPECT_EQ(sampling_distribution(kLogits, {.top_k = 100}).size(), 4u);
}

TEST(SamplingDistribution, KeepsTheFewestTokensThatReachTopP) {
  expect_distribution(sampling_distribution(kLogits, {.top_p = 0.3}), {{1, 1.0}});
  expect_distribution(sampling_distribution(kLogits, {.top_p = 0.5}),
                      {{1, 4.0 / 7.0}, {3, 3.0 / 7.0}});
  expect_distribution(sampling_distribution(kLogits, {.top_p = 0.85}),
                      {{1, 4.0 / 9.0}, {3, 3.0 / 9.0}, {2, 2.0 / 9.0}});
}

TEST(SamplingDistribution, AppliesTopPToWhatTopKLeft) {
  // Of 4/7 and 3/7 the first alone reaches one half; of the whole distribution it would not.
  expect_distribution(sampling_distribution(kLogits, {.top_k = 2, .top_p = 0.5}), {{1, 1.0}});
}

TEST(SamplingDistribution, AtTemperatureZeroIsTheLikeliestToken) {
  expect_distribution(sampling_distribution(kLogits, {.temperature = 0.0, .top_p = 0.9}),
                      {{1, 1.0}});
}

TEST(SamplingDistribution, PrefersTheLowerIdAmongEquals) {
  const std::vector<double> equal = {0.5, 2.0, 2.0, 0.5};
  EXPECT_THAT(tokens_of(sampling_distribution(equal, {.top_k = 3})), ElementsAre(1, 2, 0));
  EXPECT_THAT(tokens_of(sampling_distribution(equal, {.temperature = 0.0})), ElementsAre(1));
}

TEST(SamplingDistribution, StandsLargeLogitsAndImpossibleTokens) {
  const std::vector<double> logits = {1e6, -kInfinity, 1e6, -1e6};
  const auto distribution = sampling_distribution(logits, {});
  EXPECT_THAT(probabilities_of(distribution), ElementsAre(0.5, 0.5, 0.0, 0.0));
  EXPECT_EQ(draw(distribution, std::nextafter(1.0, 0.0)), 2);
}

TEST(SamplingDistribution, RefusesLogitsThatAreNotNumbers) {
  EXPECT_THROW((void)sampling_distribution(std::vector<double>{1.0, std::nan("")}, {}),
               NumericError);
  EXPECT_THROW((void)sampling_distribution(std::vector<double>{kInfinity}, {}), NumericError);
  EXPECT_THROW((void)sampling_distribution(std::vector<double>{-kInfinity, -kInfinity}, {}),
               NumericError);
}

TEST(Draw, GivesEachTokenItsShareOfTheUnitInterval) {
  const auto distribution = sampling_distribution(kLogits, {});
  constexpr int kCells = 1000;
  std::vector<int> counts(kLogits.size());
  for (int i = 0; i < kCells; ++i) {
    ++counts[static_cast<size_t>(draw(distribution, (i + 0.5) / kCells))];
  }
  EXPECT_THAT(counts, ElementsAre(100, 400, 200, 300));
}

TEST(Draw, StaysInTheDistributionAtBothEnds) {
  const auto distribution = sampling_distribution(kLogits, {.temperature = 1.7, .top_k = 3});
  EXPECT_EQ(draw(distribution, 0.0), 1);
  EXPECT_EQ(draw(distribution, std::nextafter(1.0, 0.0)), 2);
}

std::string refusal(const SamplingOptions& options) {
  try {
    options.check();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(SamplingOptions, NameTheFlagThatIsOutOfRange) {
  EXPECT_THAT(refusal({.temperature = -0.5}), HasSubstr("--temperature: found -0.5, allowed"));
  EXPECT_THAT(refusal({.temperature = kInfinity}), HasSubstr("--temperature: found inf"));
  EXPECT_THAT(refusal({.top_k = 0}), HasSubstr("--top-k: found 0, allowed 1 or more"));
  EXPECT_THAT(refusal({.top_p = 0.0}), HasSubstr("--top-p: found 0, allowed"));
  EXPECT_THAT(refusal({.top_p = 1.5}), HasSubstr("--top-p: found 1.5, allowed"));
  EXPECT_EQ(refusal({.temperature = 0.0, .top_k = 1, .top_p = 1.0}), "accepted");
}

}  // namespace
}  // namespace sluice
