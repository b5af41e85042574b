#pragma once
// A curve of any length in bounded memory, thinned so that a plot of it looks the same.
//
//   Series loss;
//   for (each record) loss.add(step, value);
//   loss.outline(500);            // what to draw: extremes and ends survive
//   loss.smoothed(40.0, 500);     // its running mean

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sluice::report {

struct Point {
  double x = 0.0;
  double y = 0.0;  // not a number: the line breaks here
  bool operator==(const Point&) const = default;
};

/// Neighbouring points are joined into buckets that remember their first, least, greatest and last
/// point (the M4 aggregation of Jugel et al., VLDB 2014: drawn at one bucket a pixel column, the
/// line covers the same pixels) and their sum.
class Series {
 public:
  /// At most `capacity` buckets (at least 2) are kept; when they are full, pairs are joined.
  explicit Series(size_t capacity = 2048);

  /// x must not decrease. A y that is not finite is a gap.
  void add(double x, double y);

  /// True without a finite value.
  [[nodiscard]] bool empty() const { return finite_ == 0; }
  /// Points added, gaps included.
  [[nodiscard]] int64_t size() const { return added_; }
  /// Of the finite values; only for a series that is not empty.
  [[nodiscard]] double last() const { return last_.y; }
  [[nodiscard]] Point last_point() const { return last_; }
  [[nodiscard]] double first_x() const;
  [[nodiscard]] Point lowest() const;
  [[nodiscard]] Point highest() const;
  [[nodiscard]] double mean() const;

  /// At most 4 points a bucket, at most `buckets` buckets, in order of x. Gaps have a y that is not
  /// a number.
  [[nodiscard]] std::vector<Point> outline(size_t buckets) const;
  /// The curve without its noise: at each point the value of the straight line through its
  /// neighbours on both sides, weighted by exp(-distance / length) with the distance in points of
  /// the series. It lags behind neither a rise nor a fall. At most `points` points.
  [[nodiscard]] std::vector<Point> smoothed(double length, size_t points) const;

 private:
  struct Bucket {
    Point first, least, greatest, last;  // of finite values
    double sum = 0.0;
    int64_t count = 0;  // finite values
    int64_t added = 0;
    bool has_gap = false;
  };
  [[nodiscard]] static Bucket join(const Bucket& a, const Bucket& b);
  [[nodiscard]] std::vector<Bucket> thinned(size_t buckets) const;

  size_t capacity_;
  int64_t per_bucket_ = 1;
  int64_t added_ = 0;
  int64_t finite_ = 0;
  Point last_;
  std::vector<Bucket> buckets_;
};

}  // namespace sluice::report
