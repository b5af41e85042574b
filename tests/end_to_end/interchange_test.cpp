// What a person does with checkpoints of other programs, as typed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/end_to_end/program.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;

class Interchange : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(scratch_ / "tiny.yaml") << testing::tiny_recipe_text();
    const Outcome trained =
        sluice({"train", path("tiny.yaml"), "--out", path("run"), "--set", "train.steps=2"});
    ASSERT_EQ(trained.status, 0) << trained.errors;
  }
  Outcome sluice(const std::vector<std::string>& arguments) {
    return run_program(scratch_.path(), arguments);
  }
  [[nodiscard]] std::string path(const std::string& name) const {
    return (scratch_ / name).string();
  }

  ScratchFolder scratch_;
};

TEST_F(Interchange, AModelThatWentOutComesInAndGoesOn) {
  const Outcome out =
      sluice({"export", path("run"), "--out", path("model"), "--drop-selection-shift"});
  EXPECT_EQ(out.status, 0) << out.errors;
  EXPECT_THAT(out.output, HasSubstr("of a mixtral model, from step 2"));
  EXPECT_THAT(out.errors, HasSubstr("note: left out: the shift of loss_free_bias"));
  const Outcome in = sluice({"import", path("model"), "--out", path("model.h5")});
  EXPECT_EQ(in.status, 0) << in.errors;
  EXPECT_THAT(in.output, HasSubstr("of a mixtral model, pattern (AE)x2"));
  EXPECT_THAT(in.errors, IsEmpty());

  std::ofstream(scratch_ / "text.txt") << "aabbaabbaabbaabb";
  const Outcome loss = sluice({"eval", path("model.h5"), "--data", path("text.txt"), "--json"});
  EXPECT_EQ(loss.status, 0) << loss.errors;
  const Outcome text = sluice({"generate", path("model.h5"), "--prompt", "ab", "--tokens", "5"});
  EXPECT_EQ(text.status, 0) << text.errors;
  const Outcome trained = sluice({"train", path("tiny.yaml"), "--out", path("next"), "--set",
                                  "train.steps=1", "--set", "train.init_from=" + path("model.h5")});
  EXPECT_EQ(trained.status, 0) << trained.errors;
}

TEST_F(Interchange, StatusesAreThoseOfOtherCommands) {
  EXPECT_EQ(sluice({"import", path("nothing"), "--out", path("a.h5")}).status, 2);
  EXPECT_EQ(sluice({"export", path("run"), "--out", path("b"), "--family", "llama"}).status, 2);
  ASSERT_EQ(
      sluice({"export", path("run"), "--out", path("model"), "--drop-selection-shift"}).status, 0);
  fs::resize_file(scratch_ / "model" / "model.safetensors", 2000);
  const Outcome damaged = sluice({"import", path("model"), "--out", path("a.h5")});
  EXPECT_EQ(damaged.status, 1);
  EXPECT_THAT(damaged.errors, HasSubstr("truncated"));
  EXPECT_FALSE(fs::exists(scratch_ / "a.h5"));
  EXPECT_FALSE(fs::exists(scratch_ / "b"));
}

}  // namespace
}  // namespace sluice
