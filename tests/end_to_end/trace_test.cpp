// Routing traces as a person meets them: recorded, looked at, compared, replayed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "tests/end_to_end/program.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;

/// One run of 8 steps that records every step and its evaluations after 4 and 8.
class Traces : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = std::make_unique<ScratchFolder>();
    std::ofstream(*shared_ / "tiny.yaml") << testing::tiny_recipe_text();
    const Outcome trained = run_program(
        shared_->path(), {"train", recipe(), "--out", run(), "--set", "train.trace.every=1"});
    ASSERT_EQ(trained.status, 0) << trained.errors;
  }
  static void TearDownTestSuite() { shared_.reset(); }

  static std::string recipe() { return (*shared_ / "tiny.yaml").string(); }
  static std::string run() { return (*shared_ / "run").string(); }
  static std::string trace(const std::string& name) {
    return (*shared_ / "run" / "traces" / name).string();
  }
  Outcome sluice(const std::vector<std::string>& arguments) {
    return run_program(scratch_.path(), arguments);
  }

  static std::unique_ptr<ScratchFolder> shared_;
  ScratchFolder scratch_;
};

std::unique_ptr<ScratchFolder> Traces::shared_;

TEST_F(Traces, InspectShowsOneAndComparesIt) {
  const Outcome outcome =
      sluice({"inspect", trace("held_out_00000008.h5"), "--against", trace("held_out_00000004.h5"),
              "--segments", "4,16", "--cache", "1,2", "--vocabulary", "3"});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(outcome.errors, IsEmpty());
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("held-out text after step 8"),
                    HasSubstr("against held-out text after step 4"), HasSubstr("saturation"),
                    HasSubstr("SRP"), HasSubstr("SCH m=16"), HasSubstr("vocabulary")));
}

TEST_F(Traces, InspectWritesJson) {
  const Outcome outcome = sluice({"inspect", trace("step_00000003.h5"), "--cache", "2", "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const auto json = nlohmann::json::parse(outcome.output);
  EXPECT_EQ(json.at("kind"), "training");
  EXPECT_EQ(json.at("step"), 3);
  EXPECT_EQ(json.at("tokens"), 128);
  EXPECT_EQ(json.at("layers").size(), 2u);
  EXPECT_EQ(json.at("layers")[0].at("counts").size(), 4u);
  EXPECT_EQ(json.at("layers")[1].at("caches")[0].at("capacity"), 4);
}

TEST_F(Traces, InspectListsAFolderOfThem) {
  const Outcome outcome = sluice({"inspect", run() + "/traces"});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_THAT(
      outcome.output,
      AllOf(HasSubstr("traces: 10 routing traces"), HasSubstr("training step 8\n"),
            HasSubstr("held-out text after step 4\n"), ::testing::Not(HasSubstr("damaged"))));
  const Outcome json = sluice({"inspect", run() + "/traces", "--json"});
  const auto files = nlohmann::json::parse(json.output).at("traces").at("files");
  ASSERT_EQ(files.size(), 10U);
  EXPECT_EQ(files[9].at("kind"), "held_out");
  EXPECT_EQ(files[9].at("step"), 8);
  const Outcome asked = sluice({"inspect", run() + "/traces", "--cache", "2"});
  EXPECT_EQ(asked.status, 2);
  EXPECT_THAT(asked.errors, HasSubstr("is a folder of routing traces"));
  EXPECT_THAT(sluice({"inspect", run() + "/checkpoints"}).output, HasSubstr("2 checkpoints"));
}

TEST_F(Traces, EvalRecordsAndReplays) {
  const std::string file = (scratch_ / "eval.h5").string();
  const Outcome recorded = sluice({"eval", run(), "--json", "--trace", file});
  ASSERT_EQ(recorded.status, 0) << recorded.errors;
  EXPECT_EQ(sluice({"eval", run(), "--json", "--replay", file}).output, recorded.output);
  const Outcome early =
      sluice({"eval", run(), "--json", "--replay", trace("held_out_00000004.h5")});
  EXPECT_EQ(early.status, 0) << early.errors;
  EXPECT_NE(early.output, recorded.output);
}

TEST_F(Traces, NoRoomForATraceIsStatusOneAndLeavesNoFile) {
  const auto size = std::filesystem::file_size(trace("held_out_00000008.h5"));
  for (const rlim_t bytes : {rlim_t{1024}, rlim_t{size / 2}, rlim_t{size - 100}}) {
    const std::string file = (scratch_ / "eval.h5").string();
    Outcome outcome;
    {
      const testing::FileSizeLimit limit(bytes);
      outcome = sluice({"eval", run(), "--trace", file});
    }
    EXPECT_EQ(outcome.status, 1) << bytes;
    EXPECT_THAT(outcome.errors, AllOf(HasSubstr("eval.h5: "), HasSubstr("File too large")))
        << bytes;
    EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1) << outcome.errors;
    EXPECT_FALSE(std::filesystem::exists(file)) << bytes;
  }
}

TEST_F(Traces, TrainReplays) {
  const Outcome outcome = sluice({"train", recipe(), "--out", (scratch_ / "again").string(),
                                  "--set", "train.replay.from=" + trace("")});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
}

TEST_F(Traces, ErrorsAreOneSentence) {
  const auto error = [&](const std::vector<std::string>& arguments, int status) {
    const Outcome outcome = sluice(arguments);
    EXPECT_EQ(outcome.status, status) << outcome.errors;
    EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1) << outcome.errors;
    return outcome.errors;
  };
  const std::string whole = trace("held_out_00000008.h5");
  const std::string cut = (scratch_ / "cut.h5").string();
  std::filesystem::copy_file(whole, cut);
  std::filesystem::resize_file(cut, std::filesystem::file_size(cut) / 2);
  EXPECT_THAT(error({"inspect", cut}, 1), HasSubstr("cut.h5: cannot open"));
  EXPECT_THAT(error({"inspect", whole, "--against", trace("step_00000008.h5")}, 1),
              HasSubstr("compare traces of the same held-out text"));
  EXPECT_THAT(error({"inspect", whole, "--against", "none.h5"}, 2), HasSubstr("no such file"));
  // What is in a file is found out at run time: status 1.
  const std::string some = (scratch_ / "some").string();
  ASSERT_EQ(sluice({"train", recipe(), "--out", some, "--set", "train.trace.layers=[1]"}).status,
            0);
  EXPECT_THAT(error({"inspect", whole, "--against", some + "/traces/held_out_00000008.h5"}, 1),
              HasSubstr("holds expert layers [1] of a model with [4, 4] experts"));
  EXPECT_THAT(error({"inspect", whole, "--against", recipe()}, 1),
              HasSubstr("tiny.yaml: not an HDF5 file"));
  EXPECT_THAT(error({"inspect", whole, "--recipe"}, 2), HasSubstr("is a routing trace"));
  EXPECT_THAT(error({"inspect", run(), "--cache", "2"}, 2), HasSubstr("are for routing traces"));
  EXPECT_THAT(error({"inspect", whole, "--cache", "-1"}, 2),
              HasSubstr("--cache: found \"-1\", allowed a number above 0"));
  EXPECT_THAT(error({"inspect", whole, "--vocabulary", "0"}, 2), HasSubstr("--vocabulary"));
  EXPECT_THAT(error({"eval", run(), "--trace", whole}, 2), HasSubstr("--trace: "));
  EXPECT_THAT(error({"eval", run(), "--replay", trace("step_00000008.h5")}, 1),
              HasSubstr("sequence"));
  EXPECT_THAT(error({"train", recipe(), "--out", (scratch_ / "other").string(), "--set",
                     "train.steps=9", "--set", "train.replay.from=" + trace("")},
                    2),
              HasSubstr("step_00000009.h5 is missing"));
}

}  // namespace
}  // namespace sluice
