#include "layers/routers/least_squares.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using Column = std::vector<double>;

/// More than any matrix of doubles takes.
constexpr int kMaxSweeps = 60;
constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

double dot(const Column& x, const Column& y) {
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
}

void rotate(Column& x, Column& y, double cosine, double sine) {
  for (size_t i = 0; i < x.size(); ++i) {
    const double before = x[i];
    x[i] = cosine * before - sine * y[i];
    y[i] = sine * before + cosine * y[i];
  }
}

/// Turns columns p and q of `u` until they are orthogonal, those of `v` with them; false when they
/// were, up to rounding of columns not shorter than `negligible`.
bool make_orthogonal(Column& up, Column& uq, Column& vp, Column& vq, double negligible) {
  const double pp = dot(up, up);
  const double qq = dot(uq, uq);
  const double pq = dot(up, uq);
  if (std::abs(pq) <= kEpsilon * std::sqrt(pp * qq)) return false;
  if (std::min(pp, qq) <= negligible * negligible) return false;
  const double zeta = (qq - pp) / (2.0 * pq);
  const double tangent =
      (zeta >= 0.0 ? 1.0 : -1.0) / (std::abs(zeta) + std::sqrt(1.0 + zeta * zeta));
  const double cosine = 1.0 / std::sqrt(1.0 + tangent * tangent);
  rotate(up, uq, cosine, cosine * tangent);
  rotate(vp, vq, cosine, cosine * tangent);
  return true;
}

}  // namespace

std::vector<double> least_squares(std::span<const double> a, int64_t m, int64_t n,
                                  std::span<const double> b, int64_t p) {
  SLUICE_INTERNAL_CHECK(std::ssize(a) == m * n && std::ssize(b) == m * p,
                        "least squares of [{}, {}] and [{}, {}] from {} and {} numbers", m, n, m, p,
                        a.size(), b.size());
  const auto rows = static_cast<size_t>(m);
  const auto columns = static_cast<size_t>(n);
  const auto sides = static_cast<size_t>(p);
  // a v = u: the columns of u become orthogonal, their lengths the singular values.
  std::vector<Column> u(columns, Column(rows));
  std::vector<Column> v(columns, Column(columns, 0.0));
  for (size_t j = 0; j < columns; ++j) {
    for (size_t i = 0; i < rows; ++i) u[j][i] = a[i * columns + j];
    v[j][j] = 1.0;
  }
  double squares = 0.0;
  for (const double value : a) squares += value * value;
  const double negligible = kEpsilon * static_cast<double>(std::max(m, n)) * std::sqrt(squares);
  bool turned = true;
  for (int sweep = 0; sweep < kMaxSweeps && turned; ++sweep) {
    turned = false;
    for (size_t i = 0; i < columns; ++i) {
      for (size_t j = i + 1; j < columns; ++j) {
        turned = make_orthogonal(u[i], u[j], v[i], v[j], negligible) || turned;
      }
    }
  }
  // x = v diag(1 / s^2) u^T b over the singular values s that are not zero.
  std::vector<double> x(columns * sides, 0.0);
  for (size_t j = 0; j < columns; ++j) {
    const double square = dot(u[j], u[j]);
    if (square <= negligible * negligible) continue;
    for (size_t k = 0; k < sides; ++k) {
      double projected = 0.0;
      for (size_t i = 0; i < rows; ++i) projected += u[j][i] * b[i * sides + k];
      for (size_t i = 0; i < columns; ++i) x[i * sides + k] += v[j][i] * projected / square;
    }
  }
  return x;
}

}  // namespace sluice
