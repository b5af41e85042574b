#pragma once
// The table that scripts/bench-compare prints.

#include <string>
#include <vector>

#include "bench/report/benchmark_results.h"

namespace sluice::bench {

/// `a[i]` and `b[i]` are the results of one program in one round. One line per benchmark that both
/// have in every round: medians of A and B, median and quartiles of the rounds' ratios B / A, and the
/// verdict: "faster" and "slower" (B than A) for times, "higher" and "lower" for a counter. Benchmarks
/// that only one build has are named below. Throws DataError when nothing can be compared: no benchmark
/// in common, or none with this figure, or fewer than kFewestRounds rounds.
[[nodiscard]] std::string comparison_text(const std::vector<ProgramResults>& a,
                                          const std::vector<ProgramResults>& b,
                                          const std::string& figure);

}  // namespace sluice::bench
