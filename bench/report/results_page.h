#pragma once
// The dated page of one pass over all benchmarks: Markdown tables of medians with their quartiles.

#include <string>
#include <utility>
#include <vector>

#include "bench/report/benchmark_results.h"

namespace sluice::bench {

struct ResultsPage {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;  // the machine, the build, the command
  std::vector<ProgramResults> programs;
};

/// One section per program. Few figures: a line per benchmark, quartiles with shares and ratios.
/// Many (whole steps): a line per figure, a column per benchmark, all with their quartiles.
/// Benchmarks that did not run are listed with the reason; programs of which none is left (a filter
/// chose others) are left out.
[[nodiscard]] std::string results_page_text(const ResultsPage& page);

}  // namespace sluice::bench
