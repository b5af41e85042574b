#include "layers/routers/cluster_domains.h"

#include <algorithm>
#include <cmath>

#include "autograd/support/error.h"

namespace sluice {
namespace {

double mean_distance(std::span<const double> a, std::span<const double> b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::abs(a[i] - b[i]);
  return sum / static_cast<double>(a.size());
}

int32_t nearest(std::span<const double> context, std::span<const double> centroids) {
  const size_t width = context.size();
  int32_t best = 0;
  double least = mean_distance(context, centroids.first(width));
  for (size_t e = 1; e < centroids.size() / width; ++e) {
    const double distance = mean_distance(context, centroids.subspan(e * width, width));
    if (distance < least) {
      least = distance;
      best = static_cast<int32_t>(e);
    }
  }
  return best;
}

/// Means of the members; nullopt when a cluster has none.
std::optional<std::vector<double>> means_of(std::span<const double> contexts, size_t width,
                                            std::span<const int32_t> cluster_of, size_t clusters) {
  std::vector<double> means(clusters * width, 0.0);
  std::vector<int64_t> members(clusters, 0);
  for (size_t j = 0; j < cluster_of.size(); ++j) {
    const auto cluster = static_cast<size_t>(cluster_of[j]);
    ++members[cluster];
    for (size_t d = 0; d < width; ++d) means[cluster * width + d] += contexts[j * width + d];
  }
  for (size_t i = 0; i < means.size(); ++i) {
    if (members[i / width] == 0) return std::nullopt;
    means[i] /= static_cast<double>(members[i / width]);
  }
  return means;
}

double median(std::vector<double> values) {
  const size_t middle = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

}  // namespace

std::optional<DomainClusters> cluster_domains(std::span<const double> contexts, int64_t width,
                                              std::vector<double> centroids,
                                              const ClusterLimits& limits) {
  const auto columns = static_cast<size_t>(width);
  SLUICE_INTERNAL_CHECK(width >= 1 && contexts.size() % columns == 0 && !centroids.empty() &&
                            centroids.size() % columns == 0,
                        "{} numbers of contexts and {} of centroids, of width {}", contexts.size(),
                        centroids.size(), width);
  DomainClusters result{.centroids = std::move(centroids),
                        .cluster_of = std::vector<int32_t>(contexts.size() / columns)};
  for (int64_t iteration = 0; iteration < limits.max_iterations; ++iteration) {
    for (size_t j = 0; j < result.cluster_of.size(); ++j) {
      result.cluster_of[j] = nearest(contexts.subspan(j * columns, columns), result.centroids);
    }
    auto moved = means_of(contexts, columns, result.cluster_of, result.centroids.size() / columns);
    if (!moved) return std::nullopt;
    double farthest = 0.0;
    for (size_t i = 0; i < moved->size(); ++i) {
      farthest = std::max(farthest, std::abs((*moved)[i] - result.centroids[i]));
    }
    result.centroids = *std::move(moved);
    if (farthest <= limits.tolerance) return result;
  }
  return std::nullopt;
}

std::optional<std::vector<double>> median_losses(std::span<const int32_t> cluster_of,
                                                 const DomainLosses& losses, int64_t experts) {
  const auto count = static_cast<size_t>(experts);
  std::vector<double> medians;
  for (size_t cluster = 0; cluster < count; ++cluster) {
    for (size_t e = 0; e < count; ++e) {
      std::vector<double> of_expert;
      for (size_t j = 0; j < cluster_of.size(); ++j) {
        if (losses.is_known[j] == 0 || static_cast<size_t>(cluster_of[j]) != cluster) continue;
        of_expert.push_back(losses.mean[j * count + e]);
      }
      if (of_expert.empty()) return std::nullopt;
      medians.push_back(median(std::move(of_expert)));
    }
  }
  return medians;
}

std::vector<int32_t> take_experts(std::span<const double> medians, int64_t experts) {
  const auto count = static_cast<size_t>(experts);
  std::vector<uint8_t> is_taken(count, 0);
  std::vector<int32_t> expert_of;
  for (size_t cluster = 0; cluster < count; ++cluster) {
    const std::span<const double> row = medians.subspan(cluster * count, count);
    size_t best = count;
    for (size_t e = 0; e < count; ++e) {
      if (is_taken[e] == 0 && (best == count || row[e] < row[best])) best = e;
    }
    is_taken[best] = 1;
    expert_of.push_back(static_cast<int32_t>(best));
  }
  return expert_of;
}

}  // namespace sluice
