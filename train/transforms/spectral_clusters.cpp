#include "train/transforms/spectral_clusters.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/kernels/symmetric_eigen.h"

namespace sluice {
namespace {

constexpr int kMostRounds = 100;

/// Rows of a matrix, and k-means on them.
class Rows {
 public:
  Rows(std::vector<double> values, size_t width) : values_(std::move(values)), width_(width) {}

  [[nodiscard]] size_t size() const { return values_.size() / width_; }

  [[nodiscard]] std::vector<size_t> cluster(size_t count) const {
    std::vector<double> centres;
    for (const size_t row : far_apart(count)) {
      const auto first = values_.begin() + static_cast<std::ptrdiff_t>(row * width_);
      centres.insert(centres.end(), first, first + static_cast<std::ptrdiff_t>(width_));
    }
    std::vector<size_t> of_row(size(), count);
    for (int round = 0; round < kMostRounds; ++round) {
      std::vector<size_t> next = nearest(centres, count);
      fill_empty(centres, count, next);
      if (next == of_row) break;
      of_row = std::move(next);
      centres = means(of_row, count);
    }
    return of_row;
  }

 private:
  [[nodiscard]] double distance(size_t row, const double* centre) const {
    double sum = 0.0;
    for (size_t d = 0; d < width_; ++d) {
      const double difference = values_[row * width_ + d] - centre[d];
      sum += difference * difference;
    }
    return sum;
  }

  /// The first row, then always the row that is farthest from those taken.
  [[nodiscard]] std::vector<size_t> far_apart(size_t count) const {
    std::vector<size_t> taken = {0};
    std::vector<double> away(size(), std::numeric_limits<double>::infinity());
    while (taken.size() < count) {
      for (size_t row = 0; row < size(); ++row) {
        away[row] = std::min(away[row], distance(row, values_.data() + taken.back() * width_));
      }
      for (const size_t row : taken) away[row] = -1.0;
      taken.push_back(static_cast<size_t>(std::ranges::max_element(away) - away.begin()));
    }
    return taken;
  }

  [[nodiscard]] std::vector<size_t> nearest(const std::vector<double>& centres,
                                            size_t count) const {
    std::vector<size_t> of_row(size());
    for (size_t row = 0; row < size(); ++row) {
      for (size_t c = 1; c < count; ++c) {
        if (distance(row, centres.data() + c * width_) <
            distance(row, centres.data() + of_row[row] * width_)) {
          of_row[row] = c;
        }
      }
    }
    return of_row;
  }

  /// An empty cluster takes the row that is farthest from its centre, of a cluster with more than one.
  void fill_empty(const std::vector<double>& centres, size_t count,
                  std::vector<size_t>& of_row) const {
    for (size_t c = 0; c < count; ++c) {
      if (std::ranges::find(of_row, c) != of_row.end()) continue;
      size_t farthest = size();
      double away = -1.0;
      for (size_t row = 0; row < size(); ++row) {
        if (std::ranges::count(of_row, of_row[row]) < 2) continue;
        const double here = distance(row, centres.data() + of_row[row] * width_);
        if (here > away) {
          away = here;
          farthest = row;
        }
      }
      of_row[farthest] = c;
    }
  }

  [[nodiscard]] std::vector<double> means(const std::vector<size_t>& of_row, size_t count) const {
    std::vector<double> sums(count * width_);
    std::vector<double> members(count);
    for (size_t row = 0; row < size(); ++row) {
      members[of_row[row]] += 1.0;
      for (size_t d = 0; d < width_; ++d) {
        sums[of_row[row] * width_ + d] += values_[row * width_ + d];
      }
    }
    for (size_t i = 0; i < sums.size(); ++i) sums[i] /= members[i / width_];
    return sums;
  }

  std::vector<double> values_;
  size_t width_;
};

/// [n, count]: the eigenvectors of the smallest eigenvalues of the normalised Laplacian, each row of
/// length 1.
std::vector<double> spectral_rows(std::span<const double> affinity, size_t n, size_t count) {
  std::vector<double> degree(n);
  for (size_t i = 0; i < n * n; ++i) degree[i / n] += affinity[i];
  std::vector<double> laplacian(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double scale = std::sqrt(degree[i] * degree[j]);
      laplacian[i * n + j] =
          (i == j ? 1.0 : 0.0) - (scale > 0.0 ? affinity[i * n + j] / scale : 0.0);
    }
  }
  std::vector<double> values(n);
  std::vector<double> vectors(n * n);
  kernels::symmetric_eigen(static_cast<int64_t>(n), laplacian.data(), values.data(),
                           vectors.data());
  std::vector<double> rows(n * count);
  for (size_t i = 0; i < n; ++i) {
    double squares = 0.0;
    for (size_t c = 0; c < count; ++c) {
      rows[i * count + c] = vectors[c * n + i];
      squares += rows[i * count + c] * rows[i * count + c];
    }
    if (squares == 0.0) continue;
    for (size_t c = 0; c < count; ++c) rows[i * count + c] /= std::sqrt(squares);
  }
  return rows;
}

}  // namespace

std::vector<std::vector<int32_t>> spectral_clusters(std::span<const double> affinity, int64_t n,
                                                    int64_t count) {
  const auto size = static_cast<size_t>(n);
  const auto clusters = static_cast<size_t>(count);
  std::vector<std::vector<int32_t>> result(clusters);
  std::vector<size_t> of_row(size);
  std::iota(of_row.begin(), of_row.end(), size_t{0});
  if (clusters < size) {
    of_row = Rows(spectral_rows(affinity, size, clusters), clusters).cluster(clusters);
  }
  for (size_t i = 0; i < size; ++i) result[of_row[i]].push_back(static_cast<int32_t>(i));
  std::ranges::sort(result, {},
                    [](const std::vector<int32_t>& members) { return members.front(); });
  return result;
}

}  // namespace sluice
