#include "bench/report/benchmark_results.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"

namespace sluice::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

/// As Google Benchmark 1.7 writes it, shortened.
constexpr const char* kFile = R"({
  "context": {"executable": "build/bench/bench_gemm", "num_cpus": 2},
  "benchmarks": [
    {"name": "gemm/nt/manual_time_mean", "run_name": "gemm/nt/manual_time", "run_type": "aggregate",
     "aggregate_name": "mean", "iterations": 3, "real_time": 9.0, "cpu_time": 9.0, "time_unit": "us", "of_peak": 0.9},
    {"name": "gemm/nt/manual_time_median", "run_name": "gemm/nt/manual_time", "run_type": "aggregate",
     "aggregate_name": "median", "iterations": 3, "real_time": 2.0, "cpu_time": 2.0, "time_unit": "us", "of_peak": 0.5},
    {"name": "gemm/nt/manual_time_q1", "run_name": "gemm/nt/manual_time", "run_type": "aggregate",
     "aggregate_name": "q1", "iterations": 3, "real_time": 1.0, "cpu_time": 1.0, "time_unit": "us", "of_peak": 0.25},
    {"name": "gemm/nt/manual_time_q3", "run_name": "gemm/nt/manual_time", "run_type": "aggregate",
     "aggregate_name": "q3", "iterations": 3, "real_time": 4.0, "cpu_time": 4.0, "time_unit": "us", "of_peak": 0.75},
    {"name": "sizes/S/iterations:6/manual_time", "run_name": "sizes/S/iterations:6/manual_time",
     "run_type": "iteration", "repetitions": 1, "repetition_index": 0, "threads": 1, "iterations": 6,
     "real_time": 300.0, "cpu_time": 300.0, "time_unit": "ms", "moe_tokens/s": 12000.0},
    {"name": "bad", "run_name": "bad", "run_type": "iteration", "error_occurred": true, "error_message": "no data",
     "iterations": 0, "real_time": 0.0, "cpu_time": 0.0, "time_unit": "ns"}
  ]
})";

TEST(BenchmarkResults, KeepMedianQuartilesAndCountersUnderTheBenchmarksOwnName) {
  const ProgramResults results = parse_results(kFile, "x.json");
  EXPECT_EQ(results.program, "bench_gemm");
  ASSERT_EQ(results.benchmarks.size(), 3u);
  const BenchmarkResult& gemm = results.benchmarks[0];
  EXPECT_EQ(gemm.name, "gemm/nt");
  EXPECT_THAT(gemm.median, ElementsAre(Pair("of_peak", 0.5), Pair("time", 2e-6)));
  EXPECT_THAT(gemm.q1, ElementsAre(Pair("of_peak", 0.25), Pair("time", 1e-6)));
  EXPECT_THAT(gemm.q3, ElementsAre(Pair("of_peak", 0.75), Pair("time", 4e-6)));
}

TEST(BenchmarkResults, OfOneRepetitionAreTheMedian) {
  const ProgramResults results = parse_results(kFile, "x.json");
  const BenchmarkResult& sizes = results.benchmarks[1];
  EXPECT_EQ(sizes.name, "sizes/S");
  EXPECT_THAT(sizes.median, ElementsAre(Pair("moe_tokens/s", 12000.0), Pair("time", 0.3)));
  EXPECT_TRUE(sizes.q1.empty());
}

TEST(BenchmarkResults, KeepTheReasonOfABenchmarkThatDidNotRun) {
  const ProgramResults results = parse_results(kFile, "x.json");
  EXPECT_EQ(results.benchmarks[2].error, "no data");
  EXPECT_TRUE(results.benchmarks[2].median.empty());
}

TEST(BenchmarkResults, RefuseWhatIsNoOutputOfABenchmark) {
  for (const char* text : {"", "no json", "[]", "{\"benchmarks\": []}"}) {
    EXPECT_THAT(testing::error_of<DataError>([&] { (void)parse_results(text, "x.json"); }),
                HasSubstr("x.json: not the JSON output of a benchmark"))
        << text;
  }
  EXPECT_THAT(testing::error_of<DataError>([] {
                (void)parse_results(R"({"context": {}, "benchmarks": [{"name": "a"}]})", "x.json");
              }),
              HasSubstr("x.json: unexpected content"));
  EXPECT_THAT(
      testing::error_of<DataError>([] {
        (void)parse_results(
            R"({"context": {}, "benchmarks": [{"run_name": "a", "real_time": 1.0, "time": 2.0}]})",
            "x.json");
      }),
      HasSubstr("a counter named \"time\" would hide the time"));
  EXPECT_THAT(testing::error_of<DataError>([] { (void)read_results("no_such_file.json"); }),
              HasSubstr("no_such_file.json"));
}

}  // namespace
}  // namespace sluice::bench
