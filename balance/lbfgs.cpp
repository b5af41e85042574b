#include "balance/lbfgs.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>

namespace sluice {
namespace {

using Vector = std::vector<double>;
constexpr double kDecrease = 1e-4;  // c1 of the Wolfe conditions
constexpr double kCurvature = 0.9;  // c2
constexpr int kMaxSteps = 40;       // of one line search

double dot(const Vector& a, const Vector& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double largest(const Vector& v) {
  double result = 0.0;
  for (const double x : v) result = std::max(result, std::abs(x));
  return result;
}

struct Pair {
  Vector s;    // step
  Vector y;    // change of the gradient
  double rho;  // 1 / <s, y>
};

/// -H gradient, by the two-loop recursion.
Vector direction_of(const std::deque<Pair>& pairs, const Vector& gradient) {
  Vector d(gradient.size());
  std::ranges::transform(gradient, d.begin(), [](double g) { return -g; });
  std::vector<double> a(pairs.size());
  for (size_t i = pairs.size(); i-- > 0;) {
    a[i] = pairs[i].rho * dot(pairs[i].s, d);
    for (size_t j = 0; j < d.size(); ++j) d[j] -= a[i] * pairs[i].y[j];
  }
  if (!pairs.empty()) {
    const double scale = 1.0 / (pairs.back().rho * dot(pairs.back().y, pairs.back().y));
    for (double& x : d) x *= scale;
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    const double b = pairs[i].rho * dot(pairs[i].y, d);
    for (size_t j = 0; j < d.size(); ++j) d[j] += (a[i] - b) * pairs[i].s[j];
  }
  return d;
}

struct Point {
  Vector x;
  Vector gradient;
  double value;
};

using Function = FunctionRef<double(std::span<const double>, std::span<double>)>;

Point evaluate(Function f, Vector x) {
  Point point{std::move(x), {}, 0.0};
  point.gradient.resize(point.x.size());
  point.value = f(point.x, point.gradient);
  return point;
}

/// A point along d that lowers the value enough; `from` itself when there is none.
Point search(Function f, const Point& from, const Vector& d) {
  const double slope = dot(from.gradient, d);
  double low = 0.0;
  double high = std::numeric_limits<double>::infinity();
  double step = 1.0;
  Point best = from;
  for (int i = 0; i < kMaxSteps; ++i) {
    Vector x = from.x;
    for (size_t j = 0; j < x.size(); ++j) x[j] += step * d[j];
    Point next = evaluate(f, std::move(x));
    // Written so that a NaN shortens the step.
    const bool is_lower = next.value <= from.value + kDecrease * step * slope;
    if (!is_lower) {
      high = step;
    } else {
      const bool is_flat = dot(next.gradient, d) >= kCurvature * slope;
      if (next.value < best.value) best = std::move(next);
      if (is_flat) break;
      low = step;
    }
    step = std::isinf(high) ? 2.0 * step : 0.5 * (low + high);
  }
  return best;
}

}  // namespace

LbfgsResult minimise(Function f, std::vector<double>& x, const LbfgsOptions& options) {
  Point at = evaluate(f, x);
  std::deque<Pair> pairs;
  int64_t iteration = 0;
  for (; iteration < options.max_iterations; ++iteration) {
    if (largest(at.gradient) <= options.tolerance) break;
    Vector d = direction_of(pairs, at.gradient);
    if (!(dot(d, at.gradient) < 0.0)) {
      if (pairs.empty()) break;
      pairs.clear();
      d = direction_of(pairs, at.gradient);
    }
    Point next = search(f, at, d);
    if (!(next.value < at.value)) {
      // The memory may be to blame: once more along the gradient.
      if (pairs.empty()) break;
      pairs.clear();
      continue;
    }
    Pair pair{next.x, next.gradient, 0.0};
    for (size_t j = 0; j < x.size(); ++j) {
      pair.s[j] -= at.x[j];
      pair.y[j] -= at.gradient[j];
    }
    const double curvature = dot(pair.s, pair.y);
    if (curvature > 0.0) {
      pair.rho = 1.0 / curvature;
      pairs.push_back(std::move(pair));
      if (static_cast<int64_t>(pairs.size()) > options.history) pairs.pop_front();
    }
    at = std::move(next);
  }
  x = at.x;
  return {at.value, largest(at.gradient), iteration};
}

}  // namespace sluice
