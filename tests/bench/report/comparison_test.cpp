#include "bench/report/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "bench/report/paired_ratio.h"
#include "tests/bench/report/sample_results.h"
#include "tests/support/error_of.h"

namespace sluice::bench {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::rounds_of;

const std::vector<double> kSteady(7, 2e-3);

TEST(Comparison, SaysOfEachBenchmarkWhetherItBecameFaster) {
  const auto a = rounds_of("gemm/nt", kSteady);
  const auto b = rounds_of("gemm/nt", std::vector<double>(7, 1e-3));
  EXPECT_THAT(comparison_text(a, b, kTime),
              ContainsRegex("gemm/nt +2.00 ms +1.00 ms +0.500 +\\(0.500 to 0.500\\) +faster\n"));
  EXPECT_THAT(comparison_text(b, a, kTime),
              ContainsRegex("gemm/nt +1.00 ms +2.00 ms +2.000 +\\(2.000 to 2.000\\) +slower\n"));
  EXPECT_THAT(comparison_text(a, a, kTime), HasSubstr("no difference"));
}

TEST(Comparison, OfACounterSaysHigherOrLower) {
  auto a = rounds_of("gemm/nt", kSteady);
  auto b = a;
  for (auto& round : a) round.benchmarks[0].median["of_peak"] = 0.5;
  for (auto& round : b) round.benchmarks[0].median["of_peak"] = 0.6;
  EXPECT_THAT(comparison_text(a, b, "of_peak"), ContainsRegex("50.0 % +60.0 % +1.200 .* higher\n"));
  EXPECT_THAT(comparison_text(b, a, "of_peak"), HasSubstr("lower\n"));
}

TEST(Comparison, NamesWhatOneBuildLacks) {
  auto a = rounds_of("gemm/nt", kSteady);
  const auto b = a;
  a[0].benchmarks.push_back(testing::one_value("gemm/old", {{kTime, 1.0}}));
  const std::string text = comparison_text(a, b, kTime);
  EXPECT_THAT(text, HasSubstr("not in both: gemm/old\n"));
  EXPECT_THAT(text, Not(ContainsRegex("gemm/old +1.00")));
}

TEST(Comparison, RefusesWhatCannotBeCompared) {
  const auto a = rounds_of("gemm/nt", kSteady);
  const auto other = rounds_of("rope", kSteady);
  EXPECT_THAT(testing::error_of<DataError>([&] { (void)comparison_text(a, other, kTime); }),
              HasSubstr("no benchmark of both builds has \"time\" in every round"));
  EXPECT_THAT(testing::error_of<DataError>([&] { (void)comparison_text(a, a, "of_peak"); }),
              HasSubstr("\"of_peak\""));
  const auto few = rounds_of("gemm/nt", {1.0, 2.0, 3.0});
  EXPECT_THAT(testing::error_of<DataError>([&] { (void)comparison_text(few, few, kTime); }),
              HasSubstr("found 3 rounds, allowed 6 or more"));
  EXPECT_THAT(testing::error_of<DataError>([&] { (void)comparison_text(a, few, kTime); }),
              HasSubstr("7 and 3 files"));
}

}  // namespace
}  // namespace sluice::bench
