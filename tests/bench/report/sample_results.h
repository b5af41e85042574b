#pragma once
// Results as a benchmark program would have written them.

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "bench/report/benchmark_results.h"

namespace sluice::testing {

using bench::BenchmarkResult;
using bench::FigureMap;
using bench::ProgramResults;

/// One benchmark with the same value as median and both quartiles.
[[nodiscard]] inline BenchmarkResult one_value(const std::string& name, const FigureMap& figures) {
  return {.name = name, .median = figures, .q1 = figures, .q3 = figures};
}

/// `times` of one benchmark, one program's results a round.
[[nodiscard]] inline std::vector<ProgramResults> rounds_of(const std::string& name,
                                                           const std::vector<double>& times) {
  std::vector<ProgramResults> rounds;
  for (const double time : times) {
    rounds.push_back({"bench_x", {{.name = name, .median = {{bench::kTime, time}}}}});
  }
  return rounds;
}

}  // namespace sluice::testing
