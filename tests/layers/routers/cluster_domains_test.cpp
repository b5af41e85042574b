#include "layers/routers/cluster_domains.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "autograd/support/rng.h"

namespace sluice {
namespace {

// The page's example: four domains, two clusters, two experts.
const std::vector<double> kContexts = {0, 0, .2, 0, 2, 2, 2.2, 2};
const DomainLosses kLosses = {.mean = {.1, .9, .2, .8, .3, .2, .5, .1}, .is_known = {1, 1, 1, 1}};

TEST(ClusterDomains, FindsThePagesClusters) {
  const auto found = cluster_domains(kContexts, 2, {-1e-3, 0.0, 1e-3, 1e-3}, {});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->cluster_of, (std::vector<int32_t>{0, 0, 1, 1}));
  const std::vector<double> expected = {.1, 0, 2.1, 2};
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(found->centroids[i], expected[i]);
}

TEST(ClusterDomains, MeasuresByTheSumOfDifferences) {
  // (3, 0) is 3 from (0, 0) and 4 from (1, 2), but farther from the first by squares: 9 and 8.
  const auto found = cluster_domains(std::vector<double>{0, 0, 3, 0, 1, 2}, 2, {0, 0, 1, 2},
                                     {.max_iterations = 1, .tolerance = 10.0});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->cluster_of, (std::vector<int32_t>{0, 0, 1}));
}

TEST(ClusterDomains, GivesUpOnAnEmptyCluster) {
  EXPECT_FALSE(cluster_domains(kContexts, 2, {0, 0, 9, 9}, {}).has_value());
  EXPECT_FALSE(cluster_domains(std::vector<double>(8, 1.0), 2, {0, 0, 1, 1}, {}).has_value());
}

TEST(ClusterDomains, GivesUpWhenTheIterationsAreUsedUp) {
  const std::vector<double> start = {0, 0, 1, 1.5};
  EXPECT_FALSE(cluster_domains(kContexts, 2, start, {.max_iterations = 1}).has_value());
  EXPECT_TRUE(cluster_domains(kContexts, 2, start, {.max_iterations = 2}).has_value());
  // Warm: from where it ended, once is enough.
  EXPECT_TRUE(cluster_domains(kContexts, 2, {.1, 0, 2.1, 2}, {.max_iterations = 1}).has_value());
}

TEST(MedianLosses, AreThePages) {
  const auto medians = median_losses(std::vector<int32_t>{0, 0, 1, 1}, kLosses, 2);
  ASSERT_TRUE(medians.has_value());
  const std::vector<double> expected = {.15, .85, .4, .15};
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ((*medians)[i], expected[i]);
}

TEST(MedianLosses, OfAnOddNumberAreTheMiddleOne) {
  const DomainLosses losses = {.mean = {1, 9, 7, 2, 3, 4, 5, 6}, .is_known = {1, 1, 1, 1}};
  EXPECT_EQ(median_losses(std::vector<int32_t>{0, 0, 0, 1}, losses, 2),
            (std::vector<double>{3, 4, 5, 6}));
}

TEST(MedianLosses, LeaveOutDomainsWithoutTokens) {
  DomainLosses losses = kLosses;
  losses.is_known[0] = 0;
  const std::vector<int32_t> cluster_of = {0, 0, 1, 1};
  const auto medians = median_losses(cluster_of, losses, 2);
  ASSERT_TRUE(medians.has_value());
  EXPECT_DOUBLE_EQ((*medians)[0], .2);
  losses.is_known[1] = 0;
  EXPECT_FALSE(median_losses(cluster_of, losses, 2).has_value());
}

TEST(TakeExperts, GivesThePagesExperts) {
  EXPECT_EQ(take_experts(std::vector<double>{.15, .85, .4, .15}, 2), (std::vector<int32_t>{0, 1}));
}

TEST(TakeExperts, LeavesALaterClusterWhatIsFree) {
  // Both would take expert 1; of equal ones the lower is taken.
  EXPECT_EQ(take_experts(std::vector<double>{.5, .1, .5, .4, .1, .4, .2, .2, .2}, 3),
            (std::vector<int32_t>{1, 0, 2}));
}

TEST(TakeExperts, IsAOneToOneMap) {
  for (uint64_t sample = 0; sample < 50; ++sample) {
    std::vector<double> medians;
    for (uint64_t i = 0; i < 49; ++i) medians.push_back(uniform({.seed = 2}, sample, i));
    std::vector<int32_t> taken = take_experts(medians, 7);
    std::ranges::sort(taken);
    EXPECT_EQ(taken, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6}));
  }
}

}  // namespace
}  // namespace sluice
