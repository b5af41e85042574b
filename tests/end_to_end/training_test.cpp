// The program trains, is killed, goes on: with the same bits whatever happened in between.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "tests/end_to_end/program.h"
#include "tests/support/run_files.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/checkpoint/store.h"

namespace sluice {
namespace {

using testing::differing_arrays;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::metrics_in;
using testing::Outcome;
using testing::Process;
using testing::run_program;
using testing::ScratchFolder;
using testing::state_in;

class Training : public ::testing::Test {
 protected:
  Training() { std::ofstream(scratch_ / "tiny.yaml") << testing::tiny_recipe_text(); }
  /// The arguments of a run in `folder`: 40 steps, a checkpoint every 5.
  [[nodiscard]] std::vector<std::string> arguments(
      const std::string& folder, const std::vector<std::string>& sets = {}) const {
    std::vector<std::string> all{"train", (scratch_ / "tiny.yaml").string(), "--out",
                                 (scratch_ / folder).string()};
    for (const std::string set :
         {"train.steps=40", "checkpoint.every=5", "checkpoint.keep=50", "threads=1"}) {
      all.insert(all.end(), {"--set", set});
    }
    for (const std::string& set : sets) all.insert(all.end(), {"--set", set});
    return all;
  }
  [[nodiscard]] Outcome train(const std::string& folder,
                              const std::vector<std::string>& sets = {}) {
    return run_program(scratch_.path(), arguments(folder, sets));
  }
  /// Starts a run, and ends it with `signal` once it has recorded `steps` steps.
  [[nodiscard]] Outcome train_until(const std::string& folder, size_t steps, int signal) {
    Process process(scratch_.path(), arguments(folder));
    while (!process.has_ended() && metrics_in(scratch_ / folder).size() < steps) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    process.send(signal);
    return process.wait();
  }
  [[nodiscard]] std::filesystem::path checkpoint(const std::string& folder, int64_t step) const {
    return scratch_ / folder / "checkpoints" / checkpoint_name(step);
  }
  void expect_equal_runs(const std::string& folder, const std::string& expected) {
    for (const int64_t step : {20, 40}) {
      EXPECT_THAT(differing_arrays(state_in(checkpoint(folder, step)),
                                   state_in(checkpoint(expected, step))),
                  IsEmpty())
          << "after step " << step;
    }
    EXPECT_EQ(metrics_in(scratch_ / folder), metrics_in(scratch_ / expected));
  }

  ScratchFolder scratch_;
};

TEST_F(Training, EndsWithStatusZeroAndACheckpoint) {
  const Outcome outcome = train("run");
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_TRUE(std::filesystem::exists(checkpoint("run", 40)));
  EXPECT_TRUE(std::filesystem::exists(scratch_ / "run" / "recipe.yaml"));
}

TEST_F(Training, KilledAndResumedOnOtherThreadsGivesTheSameBits) {
  ASSERT_EQ(train("whole").status, 0);
  for (const size_t steps : {7, 16, 29}) {
    const std::string folder = "killed_" + std::to_string(steps);
    ASSERT_EQ(train_until(folder, steps, SIGKILL).status, 128 + SIGKILL)
        << "the run ended before it could be killed";
    const Outcome resumed = train(folder, {"threads=2"});
    ASSERT_EQ(resumed.status, 0) << resumed.errors;
    expect_equal_runs(folder, "whole");
  }
}

TEST_F(Training, KilledAgainAndAgainGivesTheSameBits) {
  ASSERT_EQ(train("whole").status, 0);
  for (const size_t steps : {3, 9, 12, 20, 33}) {
    ASSERT_EQ(train_until("killed", steps, SIGKILL).status, 128 + SIGKILL);
  }
  ASSERT_EQ(train("killed").status, 0);
  expect_equal_runs("killed", "whole");
}

TEST_F(Training, GivesTheSameBitsOnAnyNumberOfThreads) {
  ASSERT_EQ(train("1", {"threads=1"}).status, 0);
  for (const std::string threads : {"2", "3"}) {
    ASSERT_EQ(train(threads, {"threads=" + threads}).status, 0);
    expect_equal_runs(threads, "1");
  }
}

TEST_F(Training, StopsOnASignalAfterSavingAndSaysHowToGoOn) {
  ASSERT_EQ(train("whole").status, 0);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    const std::string folder = "signal_" + std::to_string(signal);
    const Outcome stopped = train_until(folder, 7, signal);
    EXPECT_EQ(stopped.status, 128 + signal);
    EXPECT_THAT(stopped.output + stopped.errors, HasSubstr("go on"));
    const auto records = metrics_in(scratch_ / folder);
    EXPECT_LT(records.size(), metrics_in(scratch_ / "whole").size());
    ASSERT_EQ(train(folder).status, 0);
    expect_equal_runs(folder, "whole");
  }
}

TEST_F(Training, SavesThoughItIsToldToStopTwice) {
  Process process(scratch_.path(), arguments("run"));
  while (!process.has_ended() && metrics_in(scratch_ / "run").size() < 7) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  process.send(SIGTERM);
  process.send(SIGTERM);
  EXPECT_EQ(process.wait().status, 128 + SIGTERM);
  EXPECT_THAT(run_program(scratch_.path(), {"inspect", (scratch_ / "run").string()}).status, 0);
}

TEST_F(Training, RefusesAChangedRecipeWithStatusTwo) {
  ASSERT_EQ(train("run").status, 0);
  const Outcome outcome = train("run", {"seed=8"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.errors, HasSubstr("seed: 7 there, 8 here"));
}

TEST_F(Training, DivergedEndsWithStatusThree) {
  const Outcome outcome = train(
      "run", {"optim.learning_rate=1.0e30", "optim.clip_norm=none", "train.evaluate.every=never"});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_THAT(outcome.errors, HasSubstr("updates in a row were not finite"));
}

}  // namespace
}  // namespace sluice
