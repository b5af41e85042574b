#include "bench/report/results_page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "bench/report/figure_text.h"

namespace sluice::bench {
namespace {

constexpr const char* kLegend =
    "Medians over repetitions, in brackets the quartiles. `peak` is what the machine did in turns\n"
    "with a kernel on as many threads (multiply-adds in registers, or the triad over as many "
    "bytes),\n"
    "`of_peak` the share of it. What each figure of whole steps means stands at the top of\n"
    "`bench/bench_sizes.cpp` and `bench/bench_scaling.cpp`.\n";

/// More figures than this do not fit beside each other.
constexpr size_t kWidestRow = 5;

using Row = std::vector<std::string>;

/// A bar inside a cell would end it.
std::string escaped(const std::string& cell) {
  std::string text;
  for (const char c : cell) {
    if (c == '|') text += '\\';
    text += c;
  }
  return text;
}

std::string line(const Row& cells) {
  Row escaped_cells;
  for (const std::string& cell : cells) escaped_cells.push_back(escaped(cell));
  return fmt::format("| {} |\n", fmt::join(escaped_cells, " | "));
}

std::string table(const Row& heading, const std::vector<Row>& rows) {
  std::string text = line(heading) + line(Row(heading.size(), "---"));
  for (const Row& row : rows) text += line(row);
  return text;
}

bool is_ratio(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  return has("of_peak") || has("over") || has("share") || has("speedup");
}

/// "1.23", or "1.23 (1.20 to 1.30)".
std::string cell(const BenchmarkResult& result, const std::string& figure, bool with_quartiles) {
  const auto found = result.median.find(figure);
  if (found == result.median.end()) return "";
  std::string text = figure_text(figure, found->second);
  const auto q1 = result.q1.find(figure);
  const auto q3 = result.q3.find(figure);
  if (!with_quartiles || q1 == result.q1.end() || q3 == result.q3.end()) return text;
  const std::string low = figure_text(figure, q1->second);
  const std::string high = figure_text(figure, q3->second);
  return low == text && high == text ? text : fmt::format("{} ({} to {})", text, low, high);
}

/// Time first, ratios last.
std::vector<std::string> figures_of(const std::vector<BenchmarkResult>& benchmarks) {
  std::set<std::string> names;
  for (const auto& benchmark : benchmarks) {
    for (const auto& [name, value] : benchmark.median) names.insert(name);
  }
  std::vector<std::string> figures(names.begin(), names.end());
  std::stable_sort(figures.begin(), figures.end(), [](const auto& a, const auto& b) {
    const auto rank = [](const std::string& name) {
      return name == kTime ? 0 : is_ratio(name) + 1;
    };
    return rank(a) < rank(b);
  });
  return figures;
}

std::string by_benchmark(const std::vector<BenchmarkResult>& benchmarks,
                         const std::vector<std::string>& figures) {
  Row heading{"benchmark"};
  for (const auto& figure : figures) heading.push_back(figure_heading(figure));
  std::vector<Row> rows;
  for (const auto& benchmark : benchmarks) {
    Row row{fmt::format("`{}`", benchmark.name)};
    for (const auto& figure : figures) row.push_back(cell(benchmark, figure, is_ratio(figure)));
    rows.push_back(std::move(row));
  }
  return table(heading, rows);
}

std::string by_figure(const std::vector<BenchmarkResult>& benchmarks,
                      const std::vector<std::string>& figures) {
  Row heading{"figure"};
  for (const auto& benchmark : benchmarks) heading.push_back(fmt::format("`{}`", benchmark.name));
  std::vector<Row> rows;
  for (const auto& figure : figures) {
    Row row{figure_heading(figure)};
    for (const auto& benchmark : benchmarks) row.push_back(cell(benchmark, figure, true));
    rows.push_back(std::move(row));
  }
  return table(heading, rows);
}

/// Benchmarks with the same figures stand in one table.
std::vector<std::vector<BenchmarkResult>> tables_of(
    const std::vector<BenchmarkResult>& benchmarks) {
  std::vector<std::vector<BenchmarkResult>> tables;
  std::vector<std::vector<std::string>> figures;
  for (const auto& benchmark : benchmarks) {
    if (!benchmark.error.empty()) continue;
    const auto own = figures_of({benchmark});
    if (tables.empty() || own != figures.back()) {
      tables.emplace_back();
      figures.push_back(own);
    }
    tables.back().push_back(benchmark);
  }
  return tables;
}

std::string section(const ProgramResults& results) {
  std::string text;
  for (const auto& benchmarks : tables_of(results.benchmarks)) {
    const auto figures = figures_of(benchmarks);
    text += '\n';
    text += figures.size() <= kWidestRow ? by_benchmark(benchmarks, figures)
                                         : by_figure(benchmarks, figures);
  }
  for (const auto& benchmark : results.benchmarks) {
    if (benchmark.error.empty()) continue;
    text += fmt::format("\n`{}` did not run: {}\n", benchmark.name, benchmark.error);
  }
  return text;
}

}  // namespace

std::string results_page_text(const ResultsPage& page) {
  std::string text = fmt::format("# {}\n\n{}\n", page.title, kLegend);
  std::vector<Row> facts;
  for (const auto& [what, value] : page.facts) facts.push_back({what, value});
  text += table({"what", "value"}, facts);
  for (const auto& program : page.programs) {
    if (program.benchmarks.empty()) continue;
    text += fmt::format("\n## {}\n", program.program) + section(program);
  }
  return text;
}

}  // namespace sluice::bench
