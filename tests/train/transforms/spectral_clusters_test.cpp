#include "train/transforms/spectral_clusters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/rng.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

using Clusters = std::vector<std::vector<int32_t>>;

TEST(SpectralClusters, AreTheBlocksOfABlockMatrix) {
  // Blocks {0, 3, 5}, {1, 4}, {2, 6, 7}, in turns.
  const std::vector<int> block = {0, 1, 2, 0, 1, 0, 2, 2};
  std::vector<double> affinity;
  for (size_t i = 0; i < block.size(); ++i) {
    for (size_t j = 0; j < block.size(); ++j) {
      const double alike = 0.6 + 0.4 * uniform({.seed = 4}, std::min(i, j), std::max(i, j));
      affinity.push_back(block[i] == block[j] ? alike : 0.0);
    }
  }
  EXPECT_EQ(spectral_clusters(affinity, 8, 3), (Clusters{{0, 3, 5}, {1, 4}, {2, 6, 7}}));
  // With a little of everything between the blocks too.
  for (double& a : affinity) a += 0.05;
  EXPECT_EQ(spectral_clusters(affinity, 8, 3), (Clusters{{0, 3, 5}, {1, 4}, {2, 6, 7}}));
}

TEST(SpectralClusters, AreAsManyAsAskedForAndNeverEmpty) {
  const std::vector<double> alike(25, 1.0);
  for (int64_t count = 1; count <= 5; ++count) {
    const Clusters clusters = spectral_clusters(alike, 5, count);
    ASSERT_EQ(std::ssize(clusters), count);
    size_t members = 0;
    for (const auto& cluster : clusters) {
      EXPECT_FALSE(cluster.empty());
      members += cluster.size();
    }
    EXPECT_EQ(members, 5U);
  }
  EXPECT_THAT(
      spectral_clusters(alike, 5, 5),
      ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2), ElementsAre(3), ElementsAre(4)));
}

}  // namespace
}  // namespace sluice
