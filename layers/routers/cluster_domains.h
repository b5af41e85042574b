#pragma once
// Which expert takes which domains: K-means on their contexts, and the median losses of the experts
// (MixER; steps 2 to 4 of its gate update, see layers/routers/mixer.cpp).
//
// Letters: J domains, C width of a context, E experts, as many as clusters.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace sluice {

struct ClusterLimits {
  int64_t max_iterations = 20;
  double tolerance = 1e-4;  // of every coordinate of every centroid, absolute
};

struct DomainClusters {
  std::vector<double> centroids;    // [E, C], means of their members
  std::vector<int32_t> cluster_of;  // [J]
};

/// K-means of `contexts` [J, C] from the start `centroids` [E, C]: each context belongs to the
/// centroid with the least mean over coordinates of |difference| (ties: the lower one), each
/// centroid moves to the mean of its members, until no coordinate moves by more than the tolerance.
/// Nullopt when a cluster is empty at any time, or the iterations are used up.
[[nodiscard]] std::optional<DomainClusters> cluster_domains(std::span<const double> contexts,
                                                            int64_t width,
                                                            std::vector<double> centroids,
                                                            const ClusterLimits& limits);

/// Loss of every expert in every domain.
struct DomainLosses {
  std::vector<double> mean;       // [J, E]
  std::vector<uint8_t> is_known;  // [J]: the domain had tokens; else its row says nothing
};

/// [E, E] by clusters: the median of each expert's losses over the known domains of a cluster (of an
/// even number the mean of the middle two). Nullopt when a cluster has no known domain.
[[nodiscard]] std::optional<std::vector<double>> median_losses(std::span<const int32_t> cluster_of,
                                                               const DomainLosses& losses,
                                                               int64_t experts);

/// [E]: the expert of each cluster. Clusters in order take the expert of least loss that no earlier
/// one took (ties: the lower one).
[[nodiscard]] std::vector<int32_t> take_experts(std::span<const double> medians, int64_t experts);

}  // namespace sluice
