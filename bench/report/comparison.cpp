#include "bench/report/comparison.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "autograd/support/error.h"
#include "bench/report/figure_text.h"
#include "bench/report/paired_ratio.h"
#include "bench/statistics.h"

namespace sluice::bench {
namespace {

/// Values of one benchmark by round.
struct Rounds {
  std::vector<double> a, b;
};

/// Benchmarks in the order of the files, with what was measured of each.
struct Collected {
  std::vector<std::string> order;
  std::map<std::string, Rounds> rounds;

  void add(const ProgramResults& results, const std::string& figure,
           std::vector<double> Rounds::*side) {
    for (const auto& benchmark : results.benchmarks) {
      const auto [at, is_new] = rounds.try_emplace(benchmark.name);
      if (is_new) order.push_back(benchmark.name);
      const auto found = benchmark.median.find(figure);
      if (found != benchmark.median.end()) (at->second.*side).push_back(found->second);
    }
  }
};

const char* word_of(Verdict verdict, bool is_time) {
  if (verdict == Verdict::no_difference) return "no difference";
  if (is_time) return verdict == Verdict::lower ? "faster" : "slower";
  return verdict == Verdict::lower ? "lower" : "higher";
}

std::string line_of(const std::string& name, size_t width, const Rounds& rounds,
                    const std::string& figure) {
  const PairedRatio ratio = paired_ratio(rounds.a, rounds.b);
  return fmt::format("{:<{}}  {:>10}  {:>10}  {:.3f}  ({:.3f} to {:.3f})  {}\n", name, width,
                     figure_text(figure, median(rounds.a)), figure_text(figure, median(rounds.b)),
                     ratio.median, ratio.q1, ratio.q3, word_of(verdict_of(ratio), figure == kTime));
}

}  // namespace

std::string comparison_text(const std::vector<ProgramResults>& a,
                            const std::vector<ProgramResults>& b, const std::string& figure) {
  SLUICE_CHECK(DataError, a.size() == b.size(),
               "the builds have {} and {} files of results; every round gives one to each",
               a.size(), b.size());
  Collected collected;
  for (size_t i = 0; i < a.size(); ++i) {
    collected.add(a[i], figure, &Rounds::a);
    collected.add(b[i], figure, &Rounds::b);
  }
  std::vector<std::string> common, alone;
  size_t width = 9;
  size_t fewest = SIZE_MAX;
  for (const auto& name : collected.order) {
    const Rounds& rounds = collected.rounds.at(name);
    if (rounds.a.empty() || rounds.a.size() != rounds.b.size()) {
      alone.push_back(name);
      continue;
    }
    common.push_back(name);
    width = std::max(width, name.size());
    fewest = std::min(fewest, rounds.a.size());
  }
  SLUICE_CHECK(DataError, !common.empty(), "no benchmark of both builds has \"{}\" in every round",
               figure);
  SLUICE_CHECK(DataError, fewest >= kFewestRounds,
               "found {} rounds, allowed {} or more: fewer cannot tell a difference from chance",
               fewest, kFewestRounds);
  std::string text = fmt::format("{:<{}}  {:>10}  {:>10}  {:<5}  {:<16}  B is\n", "benchmark",
                                 width, "A", "B", "B/A", "(quartiles)");
  for (const auto& name : common) {
    text += line_of(name, width, collected.rounds.at(name), figure);
  }
  if (!alone.empty()) text += fmt::format("not in both: {}\n", fmt::join(alone, ", "));
  return text;
}

}  // namespace sluice::bench
