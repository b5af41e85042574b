#include "train/transforms/recombination.h"

#include <algorithm>
#include <cmath>

#include "autograd/support/parallel.h"

namespace sluice {
namespace {

/// A neuron, and how much it counts.
struct Point {
  std::span<const double> values;
  double weight;
};

double length_of(std::span<const double> values) { return std::sqrt(dot(values, values)); }

std::span<const double> neuron_of(std::span<const double> expert, size_t i, size_t size) {
  return expert.subspan(i * size, size);
}

/// Clusters the points into as many as the expert has neurons, starting from them, and overwrites them.
void cluster_into(std::span<double> expert, std::span<const Point> points, size_t size,
                  int64_t rounds) {
  const size_t count = expert.size() / size;
  std::vector<size_t> of_point(points.size(), count);
  for (int64_t round = 0; round < rounds; ++round) {
    std::vector<double> squares(count);
    for (size_t c = 0; c < count; ++c) {
      squares[c] = dot(neuron_of(expert, c, size), neuron_of(expert, c, size));
    }
    std::vector<size_t> next(points.size());
    parallel_for(std::ssize(points), [&](int64_t p) {
      const auto point = static_cast<size_t>(p);
      // |x - c|^2 less |x|^2.
      const auto distance = [&](size_t c) {
        return squares[c] - 2.0 * dot(points[point].values, neuron_of(expert, c, size));
      };
      double least = distance(0);
      for (size_t c = 1; c < count; ++c) {
        const double here = distance(c);
        if (here < least) {
          least = here;
          next[point] = c;
        }
      }
    });
    if (next == of_point) break;
    of_point = std::move(next);
    std::vector<double> sums(expert.size());
    std::vector<double> weights(count);
    for (size_t p = 0; p < points.size(); ++p) {
      weights[of_point[p]] += points[p].weight;
      for (size_t d = 0; d < size; ++d) {
        sums[of_point[p] * size + d] += points[p].weight * points[p].values[d];
      }
    }
    for (size_t i = 0; i < expert.size(); ++i) {
      // A centre that lost its points stays where it is.
      if (weights[i / size] > 0.0) expert[i] = sums[i] / weights[i / size];
    }
  }
}

}  // namespace

Recombination recombine_neurons(const ExpertNeurons& experts, std::span<const int32_t> kept,
                                std::span<const double> usage, double threshold, int64_t rounds) {
  Recombination result{experts.like(std::ssize(kept), experts.width)};
  const auto size = static_cast<size_t>(experts.neuron_size());
  const auto width = static_cast<size_t>(experts.width);
  for (size_t k = 0; k < kept.size(); ++k) {
    std::ranges::copy(experts.expert(kept[k]),
                      result.experts.expert(static_cast<int64_t>(k)).begin());
  }
  std::vector<double> lengths(kept.size() * width);
  for (size_t i = 0; i < lengths.size(); ++i) {
    lengths[i] = length_of(neuron_of(experts.expert(kept[i / width]), i % width, size));
  }
  // Experts that no token chose count as if one had: their neurons are not nothing.
  const auto weight_of = [&](int64_t e) { return std::max(1.0, usage[static_cast<size_t>(e)]); };
  std::vector<std::vector<Point>> received(kept.size());
  for (int64_t e = 0; e < experts.experts; ++e) {
    if (std::ranges::binary_search(kept, static_cast<int32_t>(e))) continue;
    std::vector<size_t> goes_to(width, kept.size());
    parallel_for(experts.width, [&](int64_t i) {
      const auto segment = neuron_of(experts.expert(e), static_cast<size_t>(i), size);
      const double length = length_of(segment);
      double best = threshold;
      for (size_t j = 0; j < lengths.size(); ++j) {
        if (length == 0.0 || lengths[j] == 0.0) continue;
        const double alike =
            dot(segment, neuron_of(experts.expert(kept[j / width]), j % width, size)) /
            (length * lengths[j]);
        auto& place = goes_to[static_cast<size_t>(i)];
        if (alike > best || (alike == best && place == kept.size())) {
          best = alike;
          place = j / width;
        }
      }
    });
    for (size_t i = 0; i < width; ++i) {
      if (goes_to[i] == kept.size()) {
        ++result.discarded;
        continue;
      }
      ++result.assigned;
      received[goes_to[i]].push_back({neuron_of(experts.expert(e), i, size), weight_of(e)});
    }
  }
  for (size_t k = 0; k < kept.size(); ++k) {
    if (received[k].empty()) continue;
    std::vector<Point> points;
    for (size_t i = 0; i < width; ++i) {
      points.push_back({neuron_of(experts.expert(kept[k]), i, size), weight_of(kept[k])});
    }
    points.insert(points.end(), received[k].begin(), received[k].end());
    cluster_into(result.experts.expert(static_cast<int64_t>(k)), points, size, rounds);
  }
  return result;
}

}  // namespace sluice
