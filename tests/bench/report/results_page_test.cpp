#include "bench/report/results_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/report/figure_text.h"
#include "tests/bench/report/sample_results.h"

namespace sluice::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::one_value;

TEST(FigureText, WritesTimesAndRatesInReadableUnits) {
  EXPECT_EQ(time_text(12.34e-9), "12.3 ns");
  EXPECT_EQ(time_text(1.234e-6), "1.23 us");
  EXPECT_EQ(time_text(0.1234), "123 ms");
  EXPECT_EQ(time_text(12.34), "12.3 s");
  EXPECT_EQ(figure_heading("gemm_own_FLOP/s"), "gemm_own_GFLOP/s");
  EXPECT_EQ(figure_text("gemm_own_FLOP/s", 158.862e9), "159");
  EXPECT_EQ(figure_heading("bytes/s"), "GB/s");
  EXPECT_EQ(figure_text("triad_bytes/s", 24.1e9), "24.1");
  EXPECT_EQ(figure_heading("tokens/s"), "tokens/s");
  EXPECT_EQ(figure_text("tokens/s", 12345.6), "12346");
  EXPECT_EQ(figure_text("moe_of_peak", 0.7512), "75.1 %");
  EXPECT_EQ(figure_text("moe_routing_share", 0.0432), "4.3 %");
  EXPECT_EQ(figure_text("speedup", 1.834), "1.83");
  EXPECT_EQ(figure_text("over_roofline", 0.0123), "0.0123");
}

ResultsPage page_of(std::vector<ProgramResults> programs) {
  return {.title = "Performance", .facts = {{"threads", "2"}}, .programs = std::move(programs)};
}

TEST(ResultsPage, ShowsFewFiguresInALineWithTheQuartilesOfRatios) {
  BenchmarkResult gemm = one_value("gemm/nt", {{kTime, 2e-3}, {"FLOP/s", 1e11}, {"of_peak", 0.5}});
  gemm.q1["of_peak"] = 0.25;
  gemm.q3["of_peak"] = 0.75;
  gemm.q1["FLOP/s"] = 0.5e11;
  const std::string text = results_page_text(page_of({{"bench_gemm", {gemm}}}));
  EXPECT_THAT(text, HasSubstr("# Performance\n"));
  EXPECT_THAT(text, HasSubstr("| threads | 2 |\n"));
  EXPECT_THAT(text, HasSubstr("\n## bench_gemm\n\n"
                              "| benchmark | time | GFLOP/s | of_peak |\n"
                              "| --- | --- | --- | --- |\n"
                              "| `gemm/nt` | 2.00 ms | 100 | 50.0 % (25.0 % to 75.0 %) |\n"));
}

TEST(ResultsPage, TurnsManyFiguresIntoLines) {
  const FigureMap figures{{kTime, 1.0},      {"a_ms", 1.0},   {"b_ms", 2.0},
                          {"moe_over", 1.1}, {"tokens/s", 5}, {"MiB", 7.0}};
  BenchmarkResult large = one_value("sizes/L", figures);
  large.q1["a_ms"] = 0.5;
  const std::string text =
      results_page_text(page_of({{"bench_sizes", {one_value("sizes/S", figures), large}}}));
  EXPECT_THAT(text, HasSubstr("| figure | `sizes/S` | `sizes/L` |\n"));
  EXPECT_THAT(text, HasSubstr("| a_ms | 1.00 | 1.00 (0.500 to 1.00) |\n"));
  EXPECT_THAT(text, HasSubstr("| moe_over | 1.10 | 1.10 |\n"));
}

TEST(ResultsPage, KeepsABarInsideItsCell) {
  ResultsPage page = page_of({});
  page.facts = {{"command", "bench --programs a|b"}};
  EXPECT_THAT(results_page_text(page), HasSubstr("| command | bench --programs a\\|b |\n"));
}

TEST(ResultsPage, StartsATableWhereTheFiguresChange) {
  const std::string text = results_page_text(
      page_of({{"bench_x", {one_value("a", {{kTime, 1.0}}), one_value("b", {{"other", 1.0}})}}}));
  EXPECT_THAT(text, HasSubstr("| `a` | 1.00 s |\n\n| benchmark | other |\n"));
}

TEST(ResultsPage, SaysWhatDidNotRunAndLeavesOutWhatWasNotChosen) {
  const std::string text = results_page_text(
      page_of({{"bench_none", {}}, {"bench_bad", {{.name = "bad", .error = "no data"}}}}));
  EXPECT_THAT(text, Not(HasSubstr("bench_none")));
  EXPECT_THAT(text, HasSubstr("`bad` did not run: no data\n"));
}

}  // namespace
}  // namespace sluice::bench
