// The table of a comparison, by hand-made results.

#include "train/compare/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/train/compare/comparison_files.h"

namespace sluice {
namespace {

using testing::ComparisonFiles;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

RunResult result_of(std::string variation, int64_t seed, double loss, double speed) {
  RunResult result{.variation = std::move(variation),
                   .seed = seed,
                   .processor = "some processor",
                   .threads = 2,
                   .seconds = 1000.0 / speed};
  result.run = fmt::format("{}-s{}", result.variation, seed);
  result.is_twin = result.variation == kDenseTwin;
  result.metrics = {{"eval/loss", loss}, {"speed/tokens_per_second", speed}};
  // Falls by one every ten seconds, to `loss` at its end.
  const double end = result.seconds;
  result.eval_curve = {.names = {"step", "tokens", "seconds", "eval/loss"},
                       .columns = {{1, 2}, {500, 1000}, {0.0, end}, {loss + end / 10, loss}}};
  return result;
}

class CompareTable : public ::testing::Test {
 protected:
  CompareTable() {
    comparison_ = files_.load(R"(
base: base.yaml
variations: {none: {balance: {type: none}}, aux: {balance: {type: aux_loss}}}
seeds: [1, 2, 3]
)");
  }
  [[nodiscard]] const TableCell& cell(const ComparisonTable& table, size_t row,
                                      std::string_view key) const {
    const auto columns = table_columns();
    for (size_t i = 0; i < columns.size(); ++i) {
      if (columns[i].key == key) return table.rows[row].cells[i];
    }
    throw InternalError("no such column");
  }

  ComparisonFiles files_;
  Comparison comparison_;
  std::vector<RunResult> results_{result_of("none", 1, 3.0, 100), result_of("none", 2, 4.0, 100),
                                  result_of("none", 3, 5.0, 100), result_of("aux", 1, 3.5, 50),
                                  result_of("dense_twin", 1, 2.0, 200)};
};

TEST_F(CompareTable, HasMeanAndSampleDeviationOverTheSeedsThatAreDone) {
  const ComparisonTable table = make_table(comparison_, results_);
  ASSERT_EQ(table.rows.size(), 3U);
  EXPECT_EQ(table.rows[0].seeds_done, 3);
  EXPECT_DOUBLE_EQ(cell(table, 0, "loss").mean, 4.0);
  EXPECT_DOUBLE_EQ(cell(table, 0, "loss").deviation.value(), 1.0);  // sqrt((1 + 0 + 1) / 2)
  EXPECT_EQ(table.rows[1].seeds_done, 1);
  EXPECT_EQ(cell(table, 1, "loss").deviation, std::nullopt);
  EXPECT_EQ(cell(table, 0, "avg_max_violation").count, 0);
}

TEST_F(CompareTable, ReadsTheLossAtEqualSecondsFromTheCurve) {
  // The fastest run ends after 5 s, with the loss 2; the others take 10 and 20 s.
  const ComparisonTable table = make_table(comparison_, results_);
  EXPECT_DOUBLE_EQ(table.equal_seconds.front(), 5.0);
  EXPECT_DOUBLE_EQ(cell(table, 2, "loss_at_equal_seconds").mean, 2.0);
  EXPECT_DOUBLE_EQ(cell(table, 0, "loss_at_equal_seconds").mean, 4.0 + 0.5);
  EXPECT_DOUBLE_EQ(cell(table, 1, "loss_at_equal_seconds").mean, 3.5 + 1.5);
}

TEST_F(CompareTable, SaysWhyALossAtEqualSecondsIsMissing) {
  EXPECT_TRUE(make_table(comparison_, results_).notes.empty());
  // First evaluated after 8 s, when the fastest run had ended for 3 s.
  results_[1].eval_curve.columns[2] = {8.0, 10.0};
  const ComparisonTable table = make_table(comparison_, results_);
  EXPECT_EQ(cell(table, 0, "loss_at_equal_seconds").count, 2);
  const std::string note =
      "no loss at equal seconds for 1 run of none: the first evaluation came after 5.0 s, the end "
      "of the shortest run; evaluate more often (train.evaluate.every)";
  EXPECT_THAT(table.notes, ElementsAre(note));
  EXPECT_THAT(table_text(table), HasSubstr(note));
  EXPECT_THAT(table_markdown(table), HasSubstr(note));
}

TEST_F(CompareTable, ComparesSpeedWithTheFirstVariation) {
  const ComparisonTable table = make_table(comparison_, results_);
  EXPECT_DOUBLE_EQ(cell(table, 0, "relative_speed").mean, 1.0);
  EXPECT_DOUBLE_EQ(cell(table, 1, "relative_speed").mean, 0.5);
  EXPECT_DOUBLE_EQ(cell(table, 2, "relative_speed").mean, 2.0);
}

TEST_F(CompareTable, MarksTheBestOfAColumnUnlessAllAreEqual) {
  for (RunResult& result : results_) result.metrics["load/dead_experts"] = 0.0;
  const ComparisonTable table = make_table(comparison_, results_);
  EXPECT_TRUE(cell(table, 2, "loss").is_best);
  EXPECT_FALSE(cell(table, 0, "loss").is_best);
  EXPECT_TRUE(cell(table, 2, "tokens_per_second").is_best);
  for (size_t row = 0; row < 3; ++row) EXPECT_FALSE(cell(table, row, "dead_experts").is_best);
}

TEST_F(CompareTable, ShowsTheSpecialisationThatARunMeasured) {
  EXPECT_THAT(table_text(make_table(comparison_, results_)), Not(HasSubstr("special.")));
  results_[3].metrics["eval/specialisation/0"] = 0.25;
  results_[3].metrics["eval/specialisation/1"] = 0.75;
  results_[3].metrics["eval/domain_information"] = 0.125;
  const ComparisonTable table = make_table(comparison_, results_);
  EXPECT_DOUBLE_EQ(cell(table, 1, "specialisation_mean").mean, 0.5);
  EXPECT_DOUBLE_EQ(cell(table, 1, "specialisation_max").mean, 0.75);
  EXPECT_DOUBLE_EQ(cell(table, 1, "domain_information").mean, 0.125);
  EXPECT_THAT(table_text(table), HasSubstr("special."));
}

TEST_F(CompareTable, CountsBalancingIntoTheTimeOfRouting) {
  results_[3].metrics["speed/router_fraction"] = 0.25;
  EXPECT_DOUBLE_EQ(cell(make_table(comparison_, results_), 1, "router_fraction").mean, 0.25);
  results_[3].metrics["speed/phase_fraction/balancing"] = 0.5;
  EXPECT_DOUBLE_EQ(cell(make_table(comparison_, results_), 1, "router_fraction").mean, 0.75);
}

TEST_F(CompareTable, CountsADivergedRunWithoutItsNumbers) {
  results_[1].status = RunStatus::diverged;
  const ComparisonTable table = make_table(comparison_, results_);
  EXPECT_EQ(table.rows[0].seeds_done, 2);
  EXPECT_EQ(table.rows[0].seeds_diverged, 1);
  EXPECT_DOUBLE_EQ(cell(table, 0, "loss").mean, 4.0);
  EXPECT_THAT(table_text(table), HasSubstr("2/3 (1 diverged)"));
}

TEST_F(CompareTable, SaysWhenSpeedsAreOfDifferentMachines) {
  EXPECT_TRUE(make_table(comparison_, results_).notes.empty());
  results_[0].processor = "another";
  EXPECT_THAT(make_table(comparison_, results_).notes.front(),
              HasSubstr("2 different machines or shares of one"));
}

TEST_F(CompareTable, IsAlignedText) {
  const std::string text = table_text(make_table(comparison_, results_));
  EXPECT_EQ(text,
            "(equal seconds: 5.0, the shortest run; mean ± sample standard deviation over seeds, * "
            "best)\n"
            "variation   seeds             loss  loss at equal s    tok/s        speed\n"
            "none          3/3  4.0000 ± 1.0000  4.5000 ± 1.0000  100 ± 0  1.00 ± 0.00\n"
            "aux           1/3           3.5000           5.0000       50         0.50\n"
            "dense_twin    1/3          *2.0000          *2.0000     *200        *2.00\n\n");
}

TEST_F(CompareTable, IsMarkdown) {
  const std::string text = table_markdown(make_table(comparison_, results_));
  EXPECT_THAT(
      text, HasSubstr("| variation | seeds | loss | loss at equal s | tok/s | speed | seconds |"));
  EXPECT_THAT(text, HasSubstr("| dense_twin | 1/3 | **2.0000** |"));
}

TEST_F(CompareTable, IsCsvWithALinePerRunAndTwoPerRow) {
  results_[0].metrics["eval/loss/a,b"] = 7.0;
  const std::string text = table_csv(make_table(comparison_, results_));
  EXPECT_EQ(std::ranges::count(text, '\n'), 1 + 5 + 2 * 3);
  EXPECT_THAT(text, HasSubstr("kind,model,variation,seed,status,seeds_done,loss,bits_per_byte,"));
  EXPECT_THAT(text, HasSubstr(",eval/loss,\"eval/loss/a,b\"\n"));
  EXPECT_THAT(text, HasSubstr("\nrun,,none,1,done,1,3,,"));
  EXPECT_THAT(text, HasSubstr("\nmean,,none,,,3,4,,"));
  EXPECT_THAT(text, HasSubstr("\nsd,,none,,,3,1,,"));
  EXPECT_THAT(text, HasSubstr("\nsd,,aux,,,1,,,"));
}

}  // namespace
}  // namespace sluice
