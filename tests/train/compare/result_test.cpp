// The file that a finished run leaves: what it holds, and when it counts.

#include "train/compare/result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/file.h"
#include "tests/train/compare/comparison_files.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using testing::ComparisonFiles;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kComparison =
    "base: base.yaml\nvariations: {a: {balance: {type: none}}}\nseeds: [3]\n";

constexpr std::string_view kMetrics =
    R"({"step":50,"tokens":500,"seconds":5,"train/loss":6,"load/average_max_violation":1.5,"speed/tokens_per_second":100,"memory/peak_bytes":7}
{"step":50,"tokens":500,"seconds":5.5,"eval/loss":5.9,"eval/loss/a":5}
{"step":100,"tokens":1000,"seconds":10,"train/loss":5,"load/average_max_violation":1.25,"speed/tokens_per_second":300,"memory/peak_bytes":9,"load/experts/0":[1,2]}
{"step":150,"tokens":1500,"seconds":15,"train/loss":4,"load/average_max_violation":1,"load/max_violation":0.5,"speed/tokens_per_second":110,"memory/peak_bytes":8}
{"step":150,"tokens":1500,"seconds":16,"eval/loss":3.9,"eval/loss/a":3}
{"step":160,"tok)";

/// A result of the only run of kComparison, as collected from kMetrics.
class CompareResult : public ::testing::Test {
 protected:
  CompareResult() : comparison_(files_.load(kComparison)) {
    std::filesystem::create_directories(files_ / "run");
    files_.write("run/metrics.jsonl", kMetrics);
  }
  [[nodiscard]] const ComparisonCell& cell() const { return comparison_.cells.front(); }
  [[nodiscard]] RunResult collect() const {
    return collect_result(comparison_, cell(), 3, files_ / "run",
                          {.threads = 2, .jobs = 3, .peak_resident_bytes = 11});
  }

  ComparisonFiles files_;
  Comparison comparison_;
};

TEST_F(CompareResult, HoldsWhatTheTableNeeds) {
  const RunResult result = collect();
  EXPECT_EQ(result.run, "a-s3");
  EXPECT_EQ(result.steps, 150);
  EXPECT_EQ(result.seconds, 16.0);
  EXPECT_EQ(result.metric("eval/loss"), 3.9);
  EXPECT_EQ(result.metric("eval/loss/a"), 3.0);
  EXPECT_EQ(result.metric("train/loss"), 4.0);
  EXPECT_EQ(result.metric("load/max_violation"), 0.5);
  EXPECT_EQ(result.metric("speed/tokens_per_second"), 110.0);  // the median
  EXPECT_EQ(result.metric("memory/peak_bytes"), 9.0);          // the largest
  EXPECT_EQ(result.metric("memory/peak_resident_bytes"), 11.0);
  // The mean over the first 100 steps is the running mean at step 100.
  EXPECT_EQ(result.metric("load/first_max_violation"), 1.25);
  EXPECT_EQ(result.metric("load/experts/0"), std::nullopt);
  EXPECT_THAT(result.eval_curve.column("seconds"), ElementsAre(5.5, 16.0));
  EXPECT_THAT(result.eval_curve.column("eval/loss"), ElementsAre(5.9, 3.9));
  EXPECT_THAT(result.train_curve.column("tokens"), ElementsAre(500, 1000, 1500));
  EXPECT_EQ(result.parameters_active, cell().plan.parameters.active);
}

TEST_F(CompareResult, ComesBackFromItsFile) {
  const RunResult before = collect();
  write_result(before, files_ / "results/a-s3.json");
  const auto after = read_result(files_ / "results/a-s3.json");
  ASSERT_TRUE(after.has_value());
  EXPECT_EQ(after->run, "a-s3");
  EXPECT_EQ(after->recipe, before.recipe);
  EXPECT_EQ(after->metrics, before.metrics);
  EXPECT_EQ(after->eval_curve.names, before.eval_curve.names);
  EXPECT_EQ(after->eval_curve.columns, before.eval_curve.columns);
  EXPECT_EQ(after->jobs, 3);
  EXPECT_EQ(after->seconds, before.seconds);
  // load/max_violation is missing in the first records.
  EXPECT_TRUE(std::isnan(after->train_curve.column("load/max_violation")[0]));
  EXPECT_EQ(after->train_curve.column("load/max_violation")[2], 0.5);
  check_result(*after, cell(), 3, "a-s3.json");
}

TEST_F(CompareResult, NamesNoFolderOfTheMachine) {
  files_.write("text.txt", "some text\n<|endoftext|>\n");
  const Comparison comparison = files_.load(R"(
base: base.yaml
set: {data.sources: [{path: text.txt}], data.cache: cache, threads: 2}
variations: {a: {balance: {type: none}}}
)");
  const std::string recipe = portable_recipe(comparison.cells.front().recipe);
  EXPECT_THAT(recipe, AllOf(HasSubstr("/text.txt"), HasSubstr("threads: auto")));
  EXPECT_THAT(recipe, Not(HasSubstr(files_.path().parent_path().string() + "/")));
}

TEST_F(CompareResult, DoesNotCountForAnotherRecipeAndSaysWhichKeyChanged) {
  const RunResult result = collect();
  const Comparison changed = files_.load(
      "base: base.yaml\nvariations: {a: {balance: {type: none}, model.hidden_size: 32}}\n"
      "seeds: [3]\n");
  try {
    check_result(result, changed.cells.front(), 3, "results/a-s3.json");
    FAIL() << "was taken";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "results/a-s3.json: belongs to another recipe (model.hidden_size was 16, is 32); "
                 "move it away to train again, or give another folder with --out or --results");
  }
  EXPECT_THROW(check_result(result, cell(), 4, "a-s3.json"), ConfigError);
}

TEST_F(CompareResult, CountsWhateverTheThreadsAndTheLogAre) {
  const RunResult result = collect();
  const Comparison other = files_.load(
      "base: base.yaml\nset: {threads: 1, log.every: 3, checkpoint.every: 1}\n"
      "variations: {a: {balance: {type: none}}}\nseeds: [3]\n");
  EXPECT_NO_THROW(check_result(result, other.cells.front(), 3, "a-s3.json"));
}

TEST_F(CompareResult, CountsWhenItsBuildDidNotKnowAKeyThatHasItsDefault) {
  RunResult result = collect();
  const size_t key = result.recipe.find("  sequences_per_draw: 1\n");
  ASSERT_NE(key, std::string::npos);
  result.recipe.erase(key, std::string_view("  sequences_per_draw: 1\n").size());
  EXPECT_NO_THROW(check_result(result, cell(), 3, "a-s3.json"));
}

TEST_F(CompareResult, RefusesResultsOfDifferentText) {
  RunResult one = collect();
  RunResult two = one;
  two.run = "b-s3";
  EXPECT_NO_THROW(check_same_data({one, two}));
  one.data = "11";
  EXPECT_NO_THROW(check_same_data({one, two}));
  two.data = "22";
  two.seed = 4;
  EXPECT_NO_THROW(check_same_data({one, two}));
  two.seed = 3;
  try {
    check_same_data({one, two});
    FAIL() << "were mixed";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("a-s3 was trained on 11, b-s3 on 22"));
  }
}

TEST_F(CompareResult, RefusesAFileThatIsNone) {
  EXPECT_EQ(read_result(files_ / "none.json"), std::nullopt);
  for (const std::string_view text : {"", "{}", "{\"format\":1}", "[1,2"}) {
    EXPECT_THROW((void)read_result(files_.write("x.json", text)), CheckpointError) << text;
  }
  try {
    (void)read_result(files_.write("x.json", R"({"format":9})"));
    FAIL() << "was read";
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), HasSubstr("found format 9, this program reads 1"));
  }
}

TEST_F(CompareResult, RefusesARunWithoutARecord) {
  files_.write("run/metrics.jsonl", "");
  EXPECT_THROW((void)collect(), CheckpointError);
}

}  // namespace
}  // namespace sluice
