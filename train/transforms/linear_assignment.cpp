#include "train/transforms/linear_assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr size_t kNone = std::numeric_limits<size_t>::max();

/// Rows that have entered, and prices under which every one of them has a cheapest column.
class Assignment {
 public:
  Assignment(std::span<const double> profit, size_t n)
      : profit_(profit), n_(n), row_price_(n), column_price_(n), row_of_(n, kNone) {}

  void enter(size_t row) {
    shortest_.assign(n_, std::numeric_limits<double>::infinity());
    before_.assign(n_, kNone);
    reached_.assign(n_, false);
    size_t at = kNone;  // column whose row is looked at; none: the new row
    while (true) {
      const size_t looking = at == kNone ? row : row_of_[at];
      const double so_far = at == kNone ? 0.0 : shortest_[at];
      size_t next = kNone;
      for (size_t column = 0; column < n_; ++column) {
        if (reached_[column]) continue;
        const double reduced =
            so_far - profit_[looking * n_ + column] - row_price_[looking] - column_price_[column];
        if (reduced < shortest_[column]) {
          shortest_[column] = reduced;
          before_[column] = at;
        }
        if (next == kNone || shortest_[column] < shortest_[next]) next = column;
      }
      at = next;
      if (row_of_[at] == kNone) break;
      reached_[at] = true;
    }
    move_prices(row, shortest_[at]);
    while (at != kNone) {
      const size_t from = before_[at];
      row_of_[at] = from == kNone ? row : row_of_[from];
      at = from;
    }
  }

  [[nodiscard]] const std::vector<size_t>& row_of() const { return row_of_; }

 private:
  /// So that no column is cheaper for a row than its own, the path found included.
  void move_prices(size_t row, double length) {
    row_price_[row] += length;
    for (size_t column = 0; column < n_; ++column) {
      if (!reached_[column]) continue;
      row_price_[row_of_[column]] += length - shortest_[column];
      column_price_[column] -= length - shortest_[column];
    }
  }

  std::span<const double> profit_;
  size_t n_;
  std::vector<double> row_price_;
  std::vector<double> column_price_;
  std::vector<size_t> row_of_;  // [column]
  // Of one row's entry.
  std::vector<double> shortest_;  // [column]
  std::vector<size_t> before_;    // [column]: column before it on the path
  std::vector<bool> reached_;
};

}  // namespace

std::vector<int32_t> assign_rows(std::span<const double> profit, int64_t n) {
  SLUICE_INTERNAL_CHECK(std::ssize(profit) == n * n, "{} profits for {} rows", profit.size(), n);
  SLUICE_CHECK(NumericError, std::ranges::all_of(profit, [](double p) { return std::isfinite(p); }),
               "alignment of experts: weights that are not finite cannot be aligned");
  const auto rows = static_cast<size_t>(n);
  Assignment assignment(profit, rows);
  for (size_t row = 0; row < rows; ++row) assignment.enter(row);
  std::vector<int32_t> result(rows);
  for (size_t column = 0; column < rows; ++column) {
    result[assignment.row_of()[column]] = static_cast<int32_t>(column);
  }
  return result;
}

}  // namespace sluice
