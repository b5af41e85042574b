// From a dense run to experts, as typed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/end_to_end/program.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::run_program;
using testing::ScratchFolder;

/// The tiny recipe with dense feed-forwards.
constexpr const char* kDense =
    "model: {pattern: (AF)x2, experts: ~, feed_forward: {intermediate_size: 12}}\n"
    "balance: ~\n"
    "train: {steps: 4}\n";

TEST(UpcycleProgram, TurnsADenseRunIntoExpertsThatTrainOn) {
  const ScratchFolder folder;
  const auto file = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  };
  const std::string tiny = file("tiny.yaml", testing::tiny_recipe_text());
  const std::string dense = file("dense.yaml", kDense);
  const std::string experts = file("experts.yaml", "upcycle: {from: dense}\ntrain: {steps: 4}\n");
  const std::string run = (folder / "run").string();
  const auto sluice = [&](const std::vector<std::string>& arguments) {
    return run_program(folder.path(), arguments);
  };

  const Outcome trained = sluice({"train", tiny, dense, "--out", (folder / "dense").string()});
  ASSERT_EQ(trained.status, 0) << trained.errors;

  const Outcome upcycled = sluice({"upcycle", tiny, experts, "--out", run});
  ASSERT_EQ(upcycled.status, 0) << upcycled.errors;
  EXPECT_THAT(upcycled.output, AllOf(HasSubstr("upcycled"), HasSubstr("largest logit difference"),
                                     HasSubstr("before step 1 of 4"), HasSubstr("go on")));
  std::ifstream receipt(folder / "run" / "upcycling.json");
  const auto json = nlohmann::json::parse(receipt);
  EXPECT_EQ(json.at("scheme"), "copy");
  EXPECT_LT(json.at("parity").at("relative_difference").get<double>(), 1e-5);

  const Outcome again = sluice({"upcycle", tiny, experts, "--out", run});
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.errors, HasSubstr("holds a run already"));

  const Outcome done = sluice({"train", tiny, experts, "--out", run});
  EXPECT_EQ(done.status, 0) << done.errors;
  EXPECT_THAT(done.output, HasSubstr("4 steps"));
}

TEST(UpcycleProgram, EvaluatesAndGeneratesWithoutSomeExperts) {
  const ScratchFolder folder;
  const std::string tiny = (folder / "tiny.yaml").string();
  std::ofstream(tiny) << testing::tiny_recipe_text();
  const std::string run = (folder / "run").string();
  const auto sluice = [&](const std::vector<std::string>& arguments) {
    return run_program(folder.path(), arguments);
  };
  const Outcome trained = sluice({"train", tiny, "--set", "train.steps=2", "--out", run});
  ASSERT_EQ(trained.status, 0) << trained.errors;
  const auto loads = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"eval", run, "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome evaluated = sluice(arguments);
    EXPECT_EQ(evaluated.status, 0) << evaluated.errors;
    return nlohmann::json::parse(evaluated.output).at("loads").at(0).at("counts").size();
  };
  EXPECT_EQ(loads({}), 4U);
  EXPECT_EQ(loads({"--without-experts", "1,3"}), 2U);
  EXPECT_EQ(sluice({"generate", run, "--prompt", "a", "--tokens", "3", "--without-experts", "0"})
                .status,
            0);
  const Outcome outside = sluice({"eval", run, "--without-experts", "4"});
  EXPECT_EQ(outside.status, 2);
  EXPECT_THAT(outside.errors, HasSubstr("expert 4 cannot be left out; a layer has experts 0 to 3"));
  const Outcome wrong = sluice({"eval", run, "--without-experts", "two"});
  EXPECT_EQ(wrong.status, 2);
  EXPECT_THAT(wrong.errors, AllOf(HasSubstr("--without-experts"), HasSubstr("as 2,5 or 1-3,6")));
}

TEST(UpcycleProgram, SaysWhatItNeeds) {
  const ScratchFolder folder;
  std::ofstream(folder / "tiny.yaml") << testing::tiny_recipe_text();
  const Outcome bare = run_program(folder.path(), {"upcycle", (folder / "tiny.yaml").string()});
  EXPECT_EQ(bare.status, 2);
  EXPECT_THAT(bare.errors, HasSubstr("has no section upcycle"));
  const Outcome missing =
      run_program(folder.path(), {"upcycle", (folder / "tiny.yaml").string(), "--set",
                                  "upcycle.from=nowhere.h5", "--out", (folder / "run").string()});
  EXPECT_EQ(missing.status, 2);
  EXPECT_THAT(missing.errors, AllOf(HasSubstr("upcycle.from"), HasSubstr("no such file")));
}

}  // namespace
}  // namespace sluice
