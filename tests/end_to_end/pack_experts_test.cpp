// A model of ternary experts, packed, as typed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/end_to_end/program.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;

TEST(PackExpertsProgram, WritesAModelThatStillSpeaks) {
  const ScratchFolder folder;
  const auto path = [&](const char* name) { return (folder / name).string(); };
  std::ofstream(folder / "tiny.yaml") << testing::tiny_recipe_text();
  const auto sluice = [&](const std::vector<std::string>& arguments) {
    return run_program(folder.path(), arguments);
  };
  const Outcome trained = sluice({"train", path("tiny.yaml"), "--out", path("run"), "--set",
                                  "train.steps=2", "--set", "model.experts.form={type: ternary}"});
  ASSERT_EQ(trained.status, 0) << trained.errors;
  const Outcome packed = sluice({"pack-experts", path("run"), "--out", path("packed.h5")});
  EXPECT_EQ(packed.status, 0) << packed.errors;
  EXPECT_THAT(packed.output, HasSubstr("4,608 weights of ternary experts in "));
  EXPECT_THAT(packed.output, HasSubstr("from step 2"));
  const auto text = [&](const std::string& model) {
    const Outcome said =
        sluice({"generate", model, "--prompt", "ab", "--tokens", "12", "--temperature", "0"});
    EXPECT_EQ(said.status, 0) << said.errors;
    return said.output;
  };
  EXPECT_EQ(text(path("packed.h5")), text(path("run")));
  const Outcome again = sluice({"pack-experts", path("run"), "--out", path("packed.h5")});
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.errors, HasSubstr("exists; remove it or name another file"));
}

}  // namespace
}  // namespace sluice
