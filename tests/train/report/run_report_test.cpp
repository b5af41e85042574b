#include "train/report/run_report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/error.h"
#include "tests/support/browser.h"
#include "tests/support/markup.h"
#include "tests/support/sample_run.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/report/recipe_text.h"
#include "train/trainer.h"

namespace sluice::report {
namespace {

using ::testing::AllOf;
using testing::Browser;
using testing::count_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::ScratchFolder;

constexpr size_t kLargestPage = 5'000'000;  // bytes

class RunReport : public ::testing::Test {
 protected:
  /// 8 steps of two expert layers, with an evaluation; the trainer wrote the report.
  RunSummary train(std::string_view changes = {}) {
    Trainer trainer(testing::tiny_recipe(changes), {.folder = folder()}, reporter_);
    return trainer.run();
  }
  [[nodiscard]] std::filesystem::path folder() const { return scratch_ / "run"; }
  [[nodiscard]] std::string page() const {
    return run_report(RunFolder::open_for_reading(folder()));
  }
  void write(const std::string& name, std::string_view content) const {
    std::filesystem::create_directories(folder());
    std::ofstream(folder() / name, std::ios::binary) << content;
  }
  ScratchFolder scratch_;
  testing::RecordingReporter reporter_;
};

TEST_F(RunReport, IsWrittenAtTheEndOfARun) {
  const RunSummary summary = train();
  ASSERT_TRUE(summary.report);
  const std::string text = read_file(*summary.report, raise_as<DataError>);
  EXPECT_THAT(text, AllOf(HasSubstr("<title>run · Sluice</title>"), HasSubstr("8 of 8 steps"),
                          HasSubstr("Held-out loss"), HasSubstr("Bits per byte"),
                          HasSubstr("loss_free_bias"), HasSubstr("MaxVio per layer"),
                          HasSubstr("Load by layer and expert"), HasSubstr("Processor")));
  EXPECT_THAT(reporter_.notes, IsEmpty());
}

TEST_F(RunReport, ThatCannotBeWrittenFailsNoRun) {
  std::filesystem::create_directories(folder() / "report.html");  // a folder of that name
  const RunSummary summary = train();
  EXPECT_EQ(summary.reason, StopReason::complete);
  EXPECT_EQ(summary.report, std::nullopt);
  ASSERT_EQ(reporter_.notes.size(), 1u);
  EXPECT_THAT(reporter_.notes[0], HasSubstr("no report was written: "));
}

TEST_F(RunReport, IsNotWrittenWithoutRecords) {
  EXPECT_EQ(train("log: {sinks: []}").report, std::nullopt);
  EXPECT_THAT(reporter_.notes, IsEmpty());
}

TEST_F(RunReport, OfTheSameRecordsIsTheSame) {
  (void)train();
  EXPECT_EQ(page(), page());
}

TEST_F(RunReport, FetchesNothing) {
  testing::write_sample_run(folder());
  const std::string text = page();
  for (const std::string_view sign : {"http://", "https://", "src=", "@import", "url("}) {
    // The one address in it is the name of a namespace.
    const int allowed = sign == "http://" ? count_of(text, "http://www.w3.org/2000/svg") : 0;
    EXPECT_EQ(count_of(text, sign), allowed) << sign;
  }
}

TEST_F(RunReport, HasEverySection) {
  testing::write_sample_run(folder());
  const std::string text = page();
  for (const std::string_view id :
       {"losses", "optimisation", "balance", "load", "specialisation", "coactivation", "learning",
        "speed", "memory", "alarms", "recipe", "environment"}) {
    EXPECT_EQ(count_of(text, fmt::format("<section id=\"{}\">", id)), 1) << id;
    EXPECT_EQ(count_of(text, fmt::format("<a href=\"#{}\">", id)), 1) << id;
  }
  EXPECT_THAT(text, Not(HasSubstr("class=\"missing\">The")));
  EXPECT_LT(text.size(), kLargestPage);
}

TEST_F(RunReport, SaysWhatADenseModelHasNot) {
  Trainer trainer(testing::tiny_dense_recipe(), {.folder = folder()}, reporter_);
  (void)trainer.run();
  EXPECT_THAT(page(), AllOf(HasSubstr("no layer with routed experts"),
                            Not(HasSubstr("<section id=\"load\">"))));
}

TEST_F(RunReport, DoesWithMetricsAlone) {
  write("metrics.jsonl", "{\"step\":1,\"tokens\":2,\"seconds\":3,\"train/loss\":4}\n");
  EXPECT_THAT(page(), AllOf(HasSubstr("holds no recipe.yaml"), HasSubstr("no overview.json"),
                            HasSubstr("Nothing was evaluated")));
}

TEST_F(RunReport, KeepsEvilNamesHarmless) {
  constexpr std::string_view kEvil = "</script><script>alert(1)</script>\\\"'<img src=x>";
  testing::write_sample_run(folder(), std::string(kEvil));
  write("recipe.yaml", fmt::format("data:\n  domain: {0}\n  # {0}\n{0}: \"{0}\"\n", kEvil));
  const std::string text = page();
  EXPECT_THAT(text, AllOf(Not(HasSubstr("<script>alert")), Not(HasSubstr("<img"))));
  EXPECT_EQ(count_of(text, "<script"), count_of(text, "</script"));
}

TEST_F(RunReport, StaysSmallForAMillionSteps) {
  std::string lines;
  for (int step = 1; step <= 1'000'000; ++step) {
    if (step % 2 == 0 && step % 1000 > 100) continue;
    lines += fmt::format(
        "{{\"step\":{0},\"tokens\":{0}00,\"seconds\":{0},\"train/loss\":{1},\"load/max_violation/"
        "0\":{2}}}\n",
        step, step == 654'321 ? 99.5 : 2.0 + 5.0 / step, 0.001 * (step % 997));
  }
  write("metrics.jsonl", lines);
  const std::string text = page();
  EXPECT_LT(text.size(), kLargestPage);
  EXPECT_THAT(text, HasSubstr("654321,99.5"));  // the spike is still there
  EXPECT_THAT(text, HasSubstr("1,000,000 steps"));
}

TEST_F(RunReport, OfALargeModelStaysSmall) {
  testing::write_sample_run(folder(), "prose", {.layers = 24, .experts = 64, .records = 300});
  EXPECT_LT(page().size(), kLargestPage);
}

TEST_F(RunReport, RunsInABrowserWithoutAComplaint) {
  const auto browser = Browser::find();
  if (!browser) GTEST_SKIP() << "no browser on PATH: " << Browser::kNames;
  testing::write_sample_run(folder(), "</script><script>document.title='evil'</script>");
  write("report.html", page());
  const Browser::View view = browser->open(folder() / "report.html", scratch_.path());
  EXPECT_THAT(view.complaints, IsEmpty());
  const int figures = count_of(page(), "<div class=\"canvas\">");
  EXPECT_GE(figures, 15);
  EXPECT_THAT(view.dom, HasSubstr(fmt::format("data-plots=\"{}\"", figures)));
  EXPECT_THAT(view.dom, HasSubstr("<div class=\"slider\">"));  // no longer hidden
  EXPECT_THAT(view.dom, Not(HasSubstr("<title>evil")));
  EXPECT_GT(view.screenshot_bytes, 50'000);
}

TEST_F(RunReport, ShowsItsPlotsWithoutScripts) {
  const auto browser = Browser::find();
  if (!browser) GTEST_SKIP() << "no browser on PATH: " << Browser::kNames;
  testing::write_sample_run(folder());
  write("report.html", page());
  const auto with = browser->open(folder() / "report.html", scratch_.path());
  const auto without =
      browser->open(folder() / "report.html", scratch_.path(), Browser::Scripts::none);
  EXPECT_THAT(without.dom, AllOf(Not(HasSubstr("data-plots=")),
                                 HasSubstr("<div class=\"slider\" hidden=\"\">")));
  EXPECT_EQ(count_of(without.dom, "<svg class=\"plot"), count_of(page(), "<svg class=\"plot"));
  // The pictures differ by no more than the slider.
  EXPECT_GT(without.screenshot_bytes, with.screenshot_bytes * 9 / 10);
}

TEST(HighlightedYaml, ColoursKeysAndValues) {
  EXPECT_EQ(highlighted_yaml("a: 1\n"), "<span class=\"k\">a:</span> <span class=\"n\">1</span>\n");
  EXPECT_EQ(highlighted_yaml("  - type: none\n"),
            "  - <span class=\"k\">type:</span> <span class=\"w\">none</span>\n");
  EXPECT_EQ(highlighted_yaml("steps: 30 steps\n"),
            "<span class=\"k\">steps:</span> <span class=\"n\">30</span> steps\n");
  EXPECT_EQ(highlighted_yaml("s: \"a # \\\" b\" # c\n"),
            "<span class=\"k\">s:</span> <span class=\"s\">&quot;a # \\&quot; b&quot;</span> "
            "<span class=\"m\"># c</span>\n");
  EXPECT_EQ(highlighted_yaml("b: [0.9, x]\n"),
            "<span class=\"k\">b:</span> [<span class=\"n\">0.9</span>, x]\n");
  EXPECT_EQ(highlighted_yaml("p: /a:b\n"), "<span class=\"k\">p:</span> /a:b\n");
  EXPECT_EQ(highlighted_yaml("no colon, \"open <b>\n"), "no colon, &quot;open &lt;b&gt;\n");
}

}  // namespace
}  // namespace sluice::report
