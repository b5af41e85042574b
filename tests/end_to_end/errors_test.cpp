// What a user can get wrong, as typed: one sentence that says where, what was found and what is
// allowed, the right exit status, and nothing that was there is lost.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/end_to_end/program.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/run_files.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/checkpoint/store.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using testing::differing_arrays;
using testing::FileSizeLimit;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;
using ::testing::StartsWith;
using testing::state_in;
namespace fs = std::filesystem;

class Errors : public ::testing::Test {
 protected:
  Errors() { write("tiny.yaml", testing::tiny_recipe_text()); }

  std::string write(const std::string& name, std::string_view text) {
    std::ofstream(scratch_ / name, std::ios::binary) << text;
    return (scratch_ / name).string();
  }
  [[nodiscard]] Outcome run(const std::string& verb, const std::vector<std::string>& sets) {
    std::vector<std::string> all{verb, (scratch_ / "tiny.yaml").string()};
    if (verb == "train") all.insert(all.end(), {"--out", folder().string()});
    for (const std::string& set : sets) all.insert(all.end(), {"--set", set});
    return run_program(scratch_.path(), all);
  }
  [[nodiscard]] Outcome train(std::vector<std::string> sets = {}) {
    for (const std::string set : {"train.steps=8", "checkpoint.every=2", "checkpoint.keep=9"}) {
      sets.push_back(set);
    }
    return run("train", sets);
  }
  /// The recipe cannot be run: status 2, from `train` before anything starts and from the commands
  /// that only look at it.
  void expect_refused(const std::vector<std::string>& sets, const std::string& sentence) {
    for (const std::string verb : {"train", "validate", "plan"}) {
      const Outcome outcome = run(verb, sets);
      EXPECT_EQ(outcome.status, 2) << verb;
      EXPECT_THAT(outcome.errors, AllOf(StartsWith("sluice: "), HasSubstr(sentence))) << verb;
    }
    EXPECT_FALSE(fs::exists(folder() / "checkpoints"));
  }
  /// The data cannot be used: `status` from `train` and from `validate`.
  void expect_bad_data(const std::string& source, int status, const std::string& sentence) {
    const std::vector<std::string> sets{"data.sources=[{path: " + source + "}]"};
    const Outcome trained = run("train", sets);
    EXPECT_EQ(trained.status, status);
    EXPECT_THAT(trained.errors, HasSubstr(sentence));
    const Outcome validated = run("validate", sets);
    EXPECT_EQ(validated.status, status);
    EXPECT_THAT(validated.output, HasSubstr(sentence));
  }
  [[nodiscard]] fs::path folder() const { return scratch_ / "run"; }
  [[nodiscard]] fs::path checkpoint(int64_t step) const {
    return folder() / "checkpoints" / checkpoint_name(step);
  }

  ScratchFolder scratch_;
};

// --- the recipe ----------------------------------------------------------------------------------

TEST_F(Errors, AMisspeltKey) {
  expect_refused({"train.stepz=3"}, "unknown key; did you mean \"steps\"?");
}

TEST_F(Errors, AWrongType) {
  expect_refused({"model.hidden_size=wide"}, "model.hidden_size: found \"wide\", allowed");
}

TEST_F(Errors, AnImpossibleShape) {
  expect_refused({"model.attention.num_heads=3", "model.attention.num_kv_heads=3"},
                 "num_heads: found 3, allowed a divisor of hidden_size");
  expect_refused({"model.experts.top_k=99"}, "top_k: found 99, allowed");
}

TEST_F(Errors, AMissingRecipe) {
  const Outcome outcome = run_program(scratch_.path(), {"train", "nowhere.yaml"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_THAT(outcome.errors, HasSubstr("nowhere.yaml"));
  const Outcome named = run_program(scratch_.path(), {"train", "quickstrat"});
  EXPECT_EQ(named.status, 2);
  EXPECT_THAT(named.errors,
              HasSubstr("unknown recipe \"quickstrat\"; did you mean \"quickstart\"?"));
}

TEST_F(Errors, AnUnknownCommandAndAnUnknownFlag) {
  const Outcome command = run_program(scratch_.path(), {"trian"});
  EXPECT_EQ(command.status, 2);
  EXPECT_THAT(command.errors, HasSubstr("unknown command \"trian\"; did you mean \"train\"?"));
  const Outcome flag = run_program(scratch_.path(), {"train", "tiny.yaml", "--fast"});
  EXPECT_EQ(flag.status, 2);
  EXPECT_THAT(flag.errors, HasSubstr("--fast"));
  EXPECT_THAT(flag.errors, HasSubstr("see `sluice train --help`"));
  const Outcome inner = run_program(scratch_.path(), {"recipes", "lst"});
  EXPECT_EQ(inner.status, 2);
  EXPECT_THAT(inner.errors, HasSubstr("unknown recipes command \"lst\"; did you mean \"ls\"?"));
}

// --- the data ------------------------------------------------------------------------------------

TEST_F(Errors, AMissingDataFile) {
  expect_bad_data("/nowhere/text.txt", 2,
                  "data.sources.0: /nowhere/text.txt: file or folder not found");
}

TEST_F(Errors, AnEmptyCorpus) { expect_bad_data(write("empty.txt", ""), 1, "empty.txt"); }

TEST_F(Errors, InvalidUtf8) {
  expect_bad_data(write("bytes.txt", "good text \xC3\x28 bad\n"), 1, "invalid UTF-8");
}

// --- checkpoints ---------------------------------------------------------------------------------

TEST_F(Errors, DamagedCheckpointsArePassedOverAndTheRunEndsAsIfWhole) {
  ASSERT_EQ(train().status, 0);
  const fs::path whole = scratch_ / "whole.h5";
  fs::rename(checkpoint(8), whole);
  // The newest is cut short, the one before has a flipped bit, the one before that is another file.
  fs::resize_file(checkpoint(6), fs::file_size(checkpoint(6)) / 2);
  {
    std::fstream file(checkpoint(4), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(fs::file_size(checkpoint(4)) / 2));
    const char byte = static_cast<char>(file.peek() ^ 1);
    file.seekp(static_cast<std::streamoff>(fs::file_size(checkpoint(4)) / 2));
    file.put(byte);
  }
  const Outcome resumed = train();
  EXPECT_EQ(resumed.status, 0) << resumed.errors;
  EXPECT_THAT(resumed.errors, AllOf(HasSubstr(checkpoint_name(6)), HasSubstr(checkpoint_name(4))));
  EXPECT_THAT(resumed.output, HasSubstr("after step 2"));
  EXPECT_THAT(differing_arrays(state_in(checkpoint(8)), state_in(whole)), IsEmpty());
}

TEST_F(Errors, NoWholeCheckpointIsStatusOneAndChangesNothing) {
  ASSERT_EQ(train().status, 0);
  for (const int64_t step : {2, 4, 6, 8}) std::ofstream(checkpoint(step)) << "not a checkpoint";
  const Outcome outcome = train();
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.errors, HasSubstr("no checkpoint is whole"));
  EXPECT_EQ(fs::file_size(checkpoint(8)), std::string_view("not a checkpoint").size());
}

TEST_F(Errors, InitialWeightsThatAreNotThere) {
  const Outcome trained = train({"train.init_from=/nowhere/model.h5"});
  EXPECT_EQ(trained.status, 2);
  EXPECT_THAT(trained.errors, HasSubstr("train.init_from: /nowhere/model.h5: no such file"));
  const Outcome validated = run("validate", {"train.init_from=/nowhere/model.h5"});
  EXPECT_EQ(validated.status, 2);
  EXPECT_THAT(validated.output, HasSubstr("train.init_from: /nowhere/model.h5: no such file"));
}

TEST_F(Errors, NoRoomForACheckpointKeepsTheOlderOnesAndTheRunGoesOnLater) {
  ASSERT_EQ(train().status, 0);
  const auto size = fs::file_size(checkpoint(8));
  const fs::path whole = scratch_ / "whole.h5";
  fs::rename(checkpoint(8), whole);
  fs::remove(checkpoint(6));
  Outcome outcome;
  {
    const FileSizeLimit limit(static_cast<rlim_t>(size / 2));
    outcome = train();
  }
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.errors, AllOf(StartsWith("sluice: "), HasSubstr(checkpoint_name(6))));
  EXPECT_TRUE(fs::exists(checkpoint(4)));
  EXPECT_FALSE(fs::exists(checkpoint(6)));
  ASSERT_EQ(train().status, 0);
  EXPECT_THAT(differing_arrays(state_in(checkpoint(8)), state_in(whole)), IsEmpty());
}

// --- the console ---------------------------------------------------------------------------------

TEST_F(Errors, OutputThatCannotBeWrittenIsNotSuccess) {
  testing::Process process(scratch_.path(), {"recipes", "cat", "quickstart"}, "/dev/full");
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.errors, HasSubstr("standard output"));
}

TEST_F(Errors, ARunOutlivesItsConsole) {
  testing::Process process(scratch_.path(),
                           {"train", (scratch_ / "tiny.yaml").string(), "--out", folder().string(),
                            "--set", "train.steps=8"},
                           "/dev/full");
  const Outcome outcome = process.wait();
  EXPECT_EQ(outcome.status, 1);
  EXPECT_TRUE(fs::exists(checkpoint(8)));
}

}  // namespace
}  // namespace sluice
