#include "train/transforms/recombination.h"

#include <algorithm>
#include <cmath>

namespace sluice {
namespace {

/// Neurons, and how much each of them counts.
struct Points {
  std::vector<double> values;   // [n, size]
  std::vector<double> weights;  // [n]

  void add(std::span<const double> neurons, size_t count, double weight) {
    values.insert(values.end(), neurons.begin(), neurons.end());
    weights.insert(weights.end(), count, weight);
  }
};

/// The nearest centre of each point, ties to the first.
std::vector<size_t> nearest_centres(const Points& points, std::span<const double> centres,
                                    size_t size) {
  const size_t count = centres.size() / size;
  const std::vector<double> products =
      inner_products(points.values, centres, static_cast<int64_t>(size));
  std::vector<double> squares;
  for (size_t c = 0; c < count; ++c) {
    squares.push_back(dot(centres.subspan(c * size, size), centres.subspan(c * size, size)));
  }
  std::vector<size_t> nearest(points.weights.size());
  for (size_t p = 0; p < nearest.size(); ++p) {
    // |x - c|^2 less |x|^2.
    const auto distance = [&](size_t c) { return squares[c] - 2.0 * products[p * count + c]; };
    for (size_t c = 1; c < count; ++c) {
      if (distance(c) < distance(nearest[p])) nearest[p] = c;
    }
  }
  return nearest;
}

/// Clusters the points into as many as the expert has neurons, starting from them, and overwrites them.
void cluster_into(std::span<double> expert, const Points& points, size_t size, int64_t rounds) {
  std::vector<size_t> of_point;
  for (int64_t round = 0; round < rounds; ++round) {
    std::vector<size_t> next = nearest_centres(points, expert, size);
    if (next == of_point) break;
    of_point = std::move(next);
    std::vector<double> sums(expert.size());
    std::vector<double> weights(expert.size() / size);
    for (size_t p = 0; p < of_point.size(); ++p) {
      weights[of_point[p]] += points.weights[p];
      for (size_t d = 0; d < size; ++d) {
        sums[of_point[p] * size + d] += points.weights[p] * points.values[p * size + d];
      }
    }
    for (size_t i = 0; i < expert.size(); ++i) {
      // A centre that lost its points stays where it is.
      if (weights[i / size] > 0.0) expert[i] = sums[i] / weights[i / size];
    }
  }
}

std::vector<double> lengths_of(std::span<const double> neurons, size_t size) {
  std::vector<double> lengths;
  for (size_t first = 0; first < neurons.size(); first += size) {
    lengths.push_back(std::sqrt(dot(neurons.subspan(first, size), neurons.subspan(first, size))));
  }
  return lengths;
}

/// For each neuron of `from` the one of `to` with the largest cosine, ties to the first; the number of
/// those where none reaches the threshold.
std::vector<size_t> most_alike(std::span<const double> from, std::span<const double> to,
                               size_t size, double threshold) {
  const std::vector<double> products = inner_products(from, to, static_cast<int64_t>(size));
  const std::vector<double> own = lengths_of(from, size);
  const std::vector<double> others = lengths_of(to, size);
  std::vector<size_t> found(own.size(), others.size());
  for (size_t i = 0; i < own.size(); ++i) {
    double best = threshold;
    for (size_t j = 0; j < others.size(); ++j) {
      if (own[i] == 0.0 || others[j] == 0.0) continue;
      const double alike = products[i * others.size() + j] / (own[i] * others[j]);
      if (alike > best || (alike == best && found[i] == others.size())) {
        best = alike;
        found[i] = j;
      }
    }
  }
  return found;
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
  // Experts that no token chose count as if one had: their neurons are not nothing.
  const auto weight_of = [&](int64_t e) { return std::max(1.0, usage[static_cast<size_t>(e)]); };
  std::vector<Points> received(kept.size());
  for (int64_t e = 0; e < experts.experts; ++e) {
    if (std::ranges::binary_search(kept, static_cast<int32_t>(e))) continue;
    const std::vector<size_t> found =
        most_alike(experts.expert(e), result.experts.values, size, threshold);
    for (size_t i = 0; i < width; ++i) {
      if (found[i] == kept.size() * width) {
        ++result.discarded;
        continue;
      }
      ++result.assigned;
      received[found[i] / width].add(experts.expert(e).subspan(i * size, size), 1, weight_of(e));
    }
  }
  for (size_t k = 0; k < kept.size(); ++k) {
    if (received[k].weights.empty()) continue;
    received[k].add(experts.expert(kept[k]), width, weight_of(kept[k]));
    cluster_into(result.experts.expert(static_cast<int64_t>(k)), received[k], size, rounds);
  }
  return result;
}

}  // namespace sluice
