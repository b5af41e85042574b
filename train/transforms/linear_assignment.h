#pragma once
// The exact assignment of rows to columns:
//
//   max sum over i of profit[i, p(i)]   over all permutations p
//
// By successive shortest augmenting paths with dual prices (Kuhn 1955; Jonker and Volgenant 1987):
// row after row enters along a cheapest chain of moves, which leaves an optimal assignment of the rows
// entered so far. Ties go to the lower column.

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// `profit` is [n, n], finite. Returns p, [n]: the column of each row. O(n^3), serial. Throws
/// NumericError for a profit that is not finite.
[[nodiscard]] std::vector<int32_t> assign_rows(std::span<const double> profit, int64_t n);

}  // namespace sluice
