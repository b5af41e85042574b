#include "train/report/series.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sluice::report {
namespace {

void append_distinct(std::vector<Point>& points, const Point& point) {
  if (points.empty() || points.back() != point) points.push_back(point);
}

}  // namespace

Series::Series(size_t capacity) : capacity_(std::max<size_t>(capacity, 2)) {}

Series::Bucket Series::join(const Bucket& a, const Bucket& b) {
  Bucket joined = a.count > 0 ? a : b;
  if (a.count > 0 && b.count > 0) {
    joined.least = b.least.y < a.least.y ? b.least : a.least;
    joined.greatest = b.greatest.y > a.greatest.y ? b.greatest : a.greatest;
    joined.last = b.last;
  }
  joined.sum = a.sum + b.sum;
  joined.count = a.count + b.count;
  joined.added = a.added + b.added;
  joined.has_gap = a.has_gap || b.has_gap;
  return joined;
}

void Series::add(double x, double y) {
  const Point point{x, y};
  Bucket one{.first = point, .least = point, .greatest = point, .last = point, .added = 1};
  if (std::isfinite(y)) {
    one.sum = y;
    one.count = 1;
    last_ = point;
    ++finite_;
  } else {
    one.has_gap = true;
  }
  ++added_;
  if (!buckets_.empty() && buckets_.back().added < per_bucket_) {
    buckets_.back() = join(buckets_.back(), one);
    return;
  }
  if (buckets_.size() == capacity_) {
    buckets_ = thinned((capacity_ + 1) / 2);
    per_bucket_ *= 2;
  }
  buckets_.push_back(one);
}

std::vector<Series::Bucket> Series::thinned(size_t buckets) const {
  if (buckets_.size() <= buckets) return buckets_;
  const size_t group = (buckets_.size() + buckets - 1) / buckets;
  std::vector<Bucket> result;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    if (i % group == 0) {
      result.push_back(buckets_[i]);
    } else {
      result.back() = join(result.back(), buckets_[i]);
    }
  }
  return result;
}

double Series::first_x() const {
  const auto first = std::ranges::find_if(buckets_, [](const Bucket& b) { return b.count > 0; });
  return first == buckets_.end() ? 0.0 : first->first.x;
}

Point Series::lowest() const {
  Point result{0.0, std::numeric_limits<double>::infinity()};
  for (const Bucket& bucket : buckets_) {
    if (bucket.count > 0 && bucket.least.y < result.y) result = bucket.least;
  }
  return result;
}

Point Series::highest() const {
  Point result{0.0, -std::numeric_limits<double>::infinity()};
  for (const Bucket& bucket : buckets_) {
    if (bucket.count > 0 && bucket.greatest.y > result.y) result = bucket.greatest;
  }
  return result;
}

double Series::mean() const {
  double sum = 0.0;
  for (const Bucket& bucket : buckets_) sum += bucket.sum;
  return sum / static_cast<double>(std::max<int64_t>(finite_, 1));
}

std::vector<Point> Series::outline(size_t buckets) const {
  std::vector<Point> points;
  for (const Bucket& bucket : thinned(std::max<size_t>(buckets, 1))) {
    if (bucket.count > 0) {
      const bool rises = bucket.least.x <= bucket.greatest.x;
      append_distinct(points, bucket.first);
      append_distinct(points, rises ? bucket.least : bucket.greatest);
      append_distinct(points, rises ? bucket.greatest : bucket.least);
      append_distinct(points, bucket.last);
    }
    if (bucket.has_gap) {
      points.push_back({bucket.last.x, std::numeric_limits<double>::quiet_NaN()});
    }
  }
  return points;
}

std::vector<Point> Series::smoothed(double length, size_t points) const {
  constexpr double kReach = 5.0;  // weights below exp(-5) count for nothing
  std::vector<Bucket> all = buckets_;
  std::erase_if(all, [](const Bucket& bucket) { return bucket.count == 0; });
  const double in_buckets = std::max(length / static_cast<double>(per_bucket_), 1e-3);
  const auto reach = static_cast<int64_t>(std::ceil(kReach * in_buckets));
  const auto size = static_cast<int64_t>(all.size());
  const int64_t stride =
      std::max<int64_t>(1, (size + static_cast<int64_t>(points) - 1) /
                               std::max<int64_t>(static_cast<int64_t>(points), 1));
  std::vector<Point> result;
  for (int64_t i = 0; i < size; i = i + 1 < size ? std::min(i + stride, size - 1) : size) {
    double s0 = 0.0, s1 = 0.0, s2 = 0.0, t0 = 0.0, t1 = 0.0;  // weighted sums of d^n and d^n y
    for (int64_t j = std::max<int64_t>(0, i - reach); j <= std::min(size - 1, i + reach); ++j) {
      const Bucket& bucket = all[static_cast<size_t>(j)];
      const auto distance = static_cast<double>(j - i);
      const double kernel = std::exp(-std::abs(distance) / in_buckets);
      const double weight = kernel * static_cast<double>(bucket.count);
      s0 += weight;
      s1 += weight * distance;
      s2 += weight * distance * distance;
      t0 += kernel * bucket.sum;
      t1 += kernel * bucket.sum * distance;
    }
    const double determinant = s0 * s2 - s1 * s1;
    const double value = determinant > 1e-9 * s0 * s0 ? (s2 * t0 - s1 * t1) / determinant : t0 / s0;
    result.push_back({all[static_cast<size_t>(i)].last.x, value});
  }
  return result;
}

}  // namespace sluice::report
