// A comparison as a user runs it: to its end, after an interruption, on results from elsewhere.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "tests/end_to_end/program.h"
#include "tests/support/run_files.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::metrics_in;
using ::testing::Not;
using testing::Outcome;
using testing::Process;
using testing::run_program;
using testing::ScratchFolder;

constexpr std::string_view kComparison = R"(
base: tiny.yaml
set: {train.steps: 8, checkpoint.every: 2 steps, threads: 1}
variations:
  none: {balance: {type: none}}
  bip: {balance: {type: bip}}
seeds: [1, 2]
)";

class Compare : public ::testing::Test {
 protected:
  Compare() {
    std::ofstream(scratch_ / "tiny.yaml") << testing::tiny_recipe_text();
    write(kComparison);
  }
  void write(std::string_view text) const {
    std::ofstream(scratch_ / "c.yaml", std::ios::binary) << text;
  }
  [[nodiscard]] std::vector<std::string> arguments(const std::string& out,
                                                   const std::vector<std::string>& more) const {
    std::vector<std::string> all{"compare", (scratch_ / "c.yaml").string(), "--out",
                                 (scratch_ / out).string()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  [[nodiscard]] Outcome compare(const std::string& out,
                                const std::vector<std::string>& more = {}) const {
    return run_program(scratch_.path(), arguments(out, more));
  }
  [[nodiscard]] std::string text_of(const fs::path& file) const {
    return read_file(file, raise_as<DataError>);
  }
  [[nodiscard]] size_t results_in(const std::string& out) const {
    std::error_code failed;
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(scratch_ / out / "results", failed)) {
      if (entry.path().extension() == ".json") ++count;
    }
    return count;
  }
  /// table.csv without the columns that differ between equal runs: up to the specialisation.
  [[nodiscard]] std::string losses_in(const std::string& out) const {
    std::string text = text_of(scratch_ / out / "table.csv");
    std::string losses;
    for (size_t start = 0; start < text.size(); start = text.find('\n', start) + 1) {
      // kind, model, variation, seed, status, seeds_done, loss, bits_per_byte
      size_t end = start;
      for (int comma = 0; comma < 8; ++comma) end = text.find(',', end) + 1;
      losses += text.substr(start, end - start) + '\n';
    }
    return losses;
  }

  ScratchFolder scratch_;
};

TEST_F(Compare, RunsEverythingAndShowsItAgainWithoutRunning) {
  const Outcome first = compare("out");
  EXPECT_EQ(first.status, 0) << first.errors << first.output;
  EXPECT_EQ(results_in("out"), 6U);
  EXPECT_THAT(first.output, AllOf(HasSubstr("6/6 dense_twin-s2"), HasSubstr("of width ")));
  EXPECT_FALSE(fs::exists(scratch_ / "out/runs/bip-s1/checkpoints"));
  EXPECT_TRUE(fs::exists(scratch_ / "out/runs/bip-s1/metrics.jsonl"));
  const std::string table = text_of(scratch_ / "out/table.csv");
  const std::string markdown = text_of(scratch_ / "out/table.md");
  EXPECT_THAT(markdown, HasSubstr("| bip | 2/2 |"));

  fs::remove_all(scratch_ / "out/runs");
  fs::remove(scratch_ / "out/table.csv");
  const Outcome again = compare("out");
  EXPECT_EQ(again.status, 0) << again.errors;
  EXPECT_FALSE(fs::exists(scratch_ / "out/runs"));
  EXPECT_EQ(text_of(scratch_ / "out/table.csv"), table);
  EXPECT_EQ(text_of(scratch_ / "out/table.md"), markdown);
}

TEST_F(Compare, GoesOnBehindARunThatLeftNoRecord) {
  write(R"(
base: tiny.yaml
set: {train.steps: 2, threads: 1, balance: {type: none}}
variations:
  silent: {log.sinks: [console]}
  sound: {}
dense_twin: false
)");
  const Outcome outcome = compare("out", {"--jobs", "1"});
  EXPECT_NE(outcome.status, 0);
  EXPECT_THAT(outcome.output + outcome.errors, HasSubstr("metrics.jsonl: no record"));
  EXPECT_EQ(results_in("out"), 3U);
  EXPECT_TRUE(fs::exists(scratch_ / "out/results/sound-s3.json"));
}

TEST_F(Compare, ListsWithoutRunning) {
  const Outcome outcome = compare("out", {"--list"});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("dense_twin"), HasSubstr("6 runs in all, 0 done")));
  EXPECT_FALSE(fs::exists(scratch_ / "out"));
}

TEST_F(Compare, GivesTheSameLossesWithSeveralRunsAtATime) {
  EXPECT_EQ(compare("one").status, 0);
  const Outcome outcome = compare("three", {"--jobs", "3"});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(losses_in("three"), losses_in("one"));
  EXPECT_THAT(outcome.output, HasSubstr("speeds were measured while 3 runs shared the processor"));
}

TEST_F(Compare, GoesOnAfterAKillWithTheSameLosses) {
  EXPECT_EQ(compare("whole").status, 0);
  write(std::string(kComparison) + "keep_checkpoints: true\n");
  for (const int signal : {SIGKILL, SIGINT}) {
    Process process(scratch_.path(), arguments("cut", {}));
    // In the middle of a run, as far as its checkpoints tell.
    const size_t before = results_in("cut");
    while (!process.has_ended() && results_in("cut") <= before) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    process.send(signal);
    const Outcome outcome = process.wait();
    EXPECT_EQ(outcome.status, 128 + signal) << outcome.output << outcome.errors;
  }
  EXPECT_LT(results_in("cut"), 6U);
  const Outcome rest = compare("cut");
  EXPECT_EQ(rest.status, 0) << rest.errors << rest.output;
  EXPECT_EQ(results_in("cut"), 6U);
  EXPECT_EQ(losses_in("cut"), losses_in("whole"));
  EXPECT_TRUE(fs::exists(scratch_ / "cut/runs/bip-s2/checkpoints"));
  for (const std::string run : {"none-s1", "bip-s1", "dense_twin-s1", "none-s2"}) {
    EXPECT_EQ(metrics_in(scratch_ / "cut/runs" / run), metrics_in(scratch_ / "whole/runs" / run))
        << run;
  }
}

TEST_F(Compare, CountsResultsFromElsewhereAsDone) {
  EXPECT_EQ(compare("here").status, 0);
  fs::create_directories(scratch_ / "committed");
  for (const std::string run : {"none-s1", "bip-s2"}) {
    fs::copy_file(scratch_ / "here/results" / (run + ".json"),
                  scratch_ / "committed" / (run + ".json"));
  }
  const Outcome outcome = compare("there", {"--results", (scratch_ / "committed").string()});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.output, HasSubstr("6 runs, 2 done"));
  EXPECT_FALSE(fs::exists(scratch_ / "there/runs/none-s1"));
  EXPECT_TRUE(fs::exists(scratch_ / "there/runs/none-s2"));
  EXPECT_TRUE(fs::exists(scratch_ / "committed/none-s2.json"));
}

TEST_F(Compare, RefusesAResultOfAnotherRecipe) {
  EXPECT_EQ(compare("out").status, 0);
  write(std::string(kComparison) + "budget: 6 steps\n");
  const Outcome outcome = compare("out");
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.errors, HasSubstr("none-s1.json: belongs to another recipe (train.steps was "
                                        "8 steps, is 6 steps)"));
  EXPECT_THAT(outcome.errors, HasSubstr("and 3 more results of other recipes"));
}

TEST_F(Compare, RecordsARunThatDivergesAndGoesOn) {
  write(R"(
base: tiny.yaml
set: {train.steps: 8, train.max_nonfinite: 1}
variations:
  wild: {balance: {type: none}, optim.learning_rate: 1.0e+30, optim.clip_norm: none}
  none: {balance: {type: none}}
seeds: [1]
)");
  const Outcome outcome = compare("out");
  EXPECT_EQ(outcome.status, 3) << outcome.errors;
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("wild-s1 | diverged: "), HasSubstr("0/1 (1 diverged)"),
                    HasSubstr("none-s1 | held-out loss")));
  EXPECT_EQ(results_in("out"), 3U);
  EXPECT_THAT(text_of(scratch_ / "out/table.csv"), HasSubstr("run,,wild,1,diverged,1,,"));
}

TEST_F(Compare, ShowsARunThatFailsAndTriesItAgain) {
  // A file where the run's folder should be.
  fs::create_directories(scratch_ / "out/runs/bip-s1");
  std::ofstream(scratch_ / "out/runs/bip-s1/checkpoints") << "in the way";
  const Outcome outcome = compare("out");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("bip-s1 | failed: "),
                                    HasSubstr("failed: bip-s1; the same command tries it again")));
  EXPECT_EQ(results_in("out"), 5U);
  fs::remove(scratch_ / "out/runs/bip-s1/checkpoints");
  EXPECT_EQ(compare("out").status, 0);
  EXPECT_EQ(results_in("out"), 6U);
}

TEST_F(Compare, SaysWhatIsWrongWithItsFile) {
  write("base: tiny.yaml\nvariations: {a: {balance: {type: bop}}, b: {modl.x: 1}}\n");
  const Outcome outcome = compare("out");
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.errors, AllOf(HasSubstr("c.yaml:2:34: balance.type: found \"bop\""),
                                    HasSubstr("c.yaml:2:45: modl: unknown key")));
  EXPECT_FALSE(fs::exists(scratch_ / "out"));
  EXPECT_EQ(run_program(scratch_.path(), {"compare", (scratch_ / "gone.yaml").string()}).status, 2);
}

TEST_F(Compare, IsNamedWhereARecipeIsGivenAndTheOtherWayRound) {
  write("base: tiny.yaml\nvariations: {a: {}}\n");
  const Outcome trained = run_program(scratch_.path(), {"train", (scratch_ / "c.yaml").string()});
  EXPECT_EQ(trained.status, 2);
  EXPECT_THAT(trained.errors, HasSubstr("c.yaml: is a comparison, not a recipe; `sluice compare "));
  const Outcome compared =
      run_program(scratch_.path(), {"compare", (scratch_ / "tiny.yaml").string()});
  EXPECT_EQ(compared.status, 2);
  EXPECT_THAT(compared.errors,
              HasSubstr("tiny.yaml: is a recipe, not a comparison; `sluice train`"));
}

TEST_F(Compare, KeepsASecondComparisonOutOfItsFolder) {
  Process first(scratch_.path(), arguments("out", {}));
  while (!first.has_ended() && !fs::exists(scratch_ / "out/runs")) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const ScratchFolder other;
  const Outcome second = run_program(other.path(), arguments("out", {}));
  EXPECT_EQ(second.status, 1);
  EXPECT_THAT(second.errors, HasSubstr("in use by process"));
  EXPECT_EQ(first.wait().status, 0);
}

TEST(Recipes, CopiesAComparisonWithPathsThatHoldAnywhere) {
  const ScratchFolder scratch;
  const Outcome copied = run_program(
      scratch.path(), {"recipes", "cp", "balance_quick", (scratch / "c.yaml").string()});
  EXPECT_EQ(copied.status, 0) << copied.errors;
  const Outcome listed =
      run_program(scratch.path(), {"compare", (scratch / "c.yaml").string(), "--list"});
  EXPECT_EQ(listed.status, 0) << listed.errors;
  const Outcome resolved =
      run_program(scratch.path(), {"recipes", "cat", "balance_quick", "--resolved"});
  EXPECT_EQ(resolved.status, 2);
  EXPECT_THAT(resolved.errors, HasSubstr("sluice compare balance_quick --list"));
}

}  // namespace
}  // namespace sluice
