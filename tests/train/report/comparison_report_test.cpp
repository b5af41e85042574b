#include "train/report/comparison_report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "tests/support/browser.h"
#include "tests/support/markup.h"
#include "tests/support/scratch_folder.h"

namespace sluice::report {
namespace {

using ::testing::AllOf;
using testing::Browser;
using testing::count_of;
using testing::data_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::ScratchFolder;

/// A run of 100 steps in which the loss falls to `loss`.
RunResult result_of(const std::string& model, const std::string& variation, int64_t seed,
                    double loss) {
  RunResult result{.comparison = "bakeoff",
                   .model = model,
                   .variation = variation,
                   .seed = seed,
                   .is_twin = variation == kDenseTwin,
                   .recipe = "seed: 1\n",
                   .build = "gcc",
                   .version = "0.1.0",
                   .processor = "A processor",
                   .threads = 2,
                   .parameters_total = 10,
                   .parameters_active = 5,
                   .steps = 100,
                   .tokens = 1000,
                   .seconds = 20.0};
  result.metrics = {{"eval/loss", loss}, {"speed/tokens_per_second", 50.0}};
  result.eval_curve = {.names = {"step", "tokens", "seconds", "eval/loss"},
                       .columns = {{50, 100}, {500, 1000}, {10.0, 20.0}, {loss + 1.0, loss}}};
  result.train_curve = {.names = {"step", "tokens", "seconds", "train/loss"},
                        .columns = {{10, 100}, {100, 1000}, {2.0, 20.0}, {5.0, loss}}};
  if (!result.is_twin) {
    result.metrics["load/average_max_violation"] = 0.5;
    result.train_curve.names.emplace_back("load/max_violation");
    result.train_curve.columns.push_back({1.0, 0.25});
  }
  return result;
}

class ComparisonReport : public ::testing::Test {
 protected:
  void add(const RunResult& result) {
    std::filesystem::create_directories(results());
    write_result(result, results() / fmt::format("{}.json", ++number_));
  }
  void add_all() {
    for (const std::string model : {"big", "small"}) {
      for (const std::string variation : {"aux_loss", "none", "bip", "dense_twin"}) {
        for (const int64_t seed : {1, 2, 3}) {
          const double loss =
              3.0 + 0.1 * static_cast<double>(variation.size()) + 0.01 * static_cast<double>(seed);
          add(result_of(model, variation, seed, loss));
        }
      }
    }
  }
  [[nodiscard]] std::filesystem::path results() const { return scratch_ / "results"; }
  [[nodiscard]] std::string page() const { return comparison_report(results()); }

  ScratchFolder scratch_;
  int number_ = 0;
};

TEST_F(ComparisonReport, HasATableAndCurvesPerModel) {
  add_all();
  const std::string text = page();
  EXPECT_THAT(text, AllOf(HasSubstr("<title>bakeoff · Sluice</title>"), HasSubstr("<h2>big</h2>"),
                          HasSubstr("<h2>small</h2>")));
  EXPECT_EQ(count_of(text, "<table class=\"list wide\">"), 2);
  EXPECT_EQ(count_of(text, "Held-out loss over tokens</h3>"), 2);
  EXPECT_EQ(count_of(text, "Held-out loss over time</h3>"), 2);
  EXPECT_EQ(count_of(text, "MaxVio over tokens</h3>"), 2);
  EXPECT_THAT(text, HasSubstr("3.3200 ± 0.0100"));  // bip, three seeds
}

TEST_F(ComparisonReport, DrawsTheMeanOverSeedsAndTheDistanceToTheFirstVariation) {
  add_all();
  const std::string text = page();
  const size_t tokens = text.find("id=\"tokens-0\"");
  const nlohmann::json curves = data_of(text.substr(tokens));
  ASSERT_EQ(curves.at("lines").size(), 4u);
  EXPECT_EQ(curves.at("lines").at(0).at("name"), "none");  // before the others
  EXPECT_EQ(curves.at("lines").at(3).at("name"), "dense_twin");
  EXPECT_EQ(curves.at("lines").at(0).at("points"), nlohmann::json({500, 4.42, 1000, 3.42}));
  const nlohmann::json distances = data_of(text.substr(text.find("id=\"difference-0\"")));
  EXPECT_EQ(distances.at("lines").at(0).at("points"), nlohmann::json({500, 0, 1000, 0}));
  EXPECT_NEAR(distances.at("lines").at(2).at("points").at(3).get<double>(), -0.1, 1e-5);  // bip
  EXPECT_EQ(
      count_of(text.substr(tokens, text.find("</figure>", tokens) - tokens), "<path class=\"band"),
      4);
}

TEST_F(ComparisonReport, ShowsTheRunsThatThereAre) {
  add(result_of("", "bip", 2, 3.0));
  RunResult failed = result_of("", "none", 1, 3.0);
  failed.status = RunStatus::diverged;
  failed.problem = "the loss <is> not finite";
  add(failed);
  const std::string text = page();
  EXPECT_THAT(text, AllOf(HasSubstr("<h2>Results</h2>"),
                          HasSubstr("diverged: the loss &lt;is&gt; not finite"),
                          Not(HasSubstr("<path class=\"band"))));
}

TEST_F(ComparisonReport, KeepsEvilNamesHarmless) {
  const std::string evil = "</script><script>alert(1)</script><img src=x>";
  add(result_of(evil, evil, 1, 3.0));
  add(result_of(evil, "none", 1, 3.1));
  const std::string text = page();
  EXPECT_THAT(text, AllOf(Not(HasSubstr("<script>alert")), Not(HasSubstr("<img"))));
}

TEST_F(ComparisonReport, FindsTheFolderOfResults) {
  EXPECT_EQ(results_folder_of(scratch_.path()), "");
  add(result_of("", "bip", 1, 3.0));
  EXPECT_EQ(results_folder_of(scratch_.path()), results());
  EXPECT_EQ(results_folder_of(results()), results());
}

TEST_F(ComparisonReport, RefusesAFileThatIsNoResult) {
  add(result_of("", "bip", 1, 3.0));
  std::ofstream(results() / "z.json") << "{\"format\":1}";
  EXPECT_THROW((void)page(), CheckpointError);
}

TEST_F(ComparisonReport, RunsInABrowserWithoutAComplaint) {
  const auto browser = Browser::find();
  if (!browser) GTEST_SKIP() << "no browser on PATH: " << Browser::kNames;
  add_all();
  const std::string text = page();
  std::ofstream(scratch_ / "report.html", std::ios::binary) << text;
  const Browser::View view = browser->open(scratch_ / "report.html", scratch_.path());
  EXPECT_THAT(view.complaints, IsEmpty());
  const int figures = count_of(text, "<div class=\"canvas\">");
  EXPECT_GE(figures, 14);
  EXPECT_THAT(view.dom, HasSubstr(fmt::format("data-plots=\"{}\"", figures)));
  EXPECT_GT(view.screenshot_bytes, 50'000);
}

}  // namespace
}  // namespace sluice::report
