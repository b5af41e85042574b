// From a run of experts to a smaller one, as typed.

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

/// A trained run, and a file beside it.
class TransformProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    write("tiny.yaml", testing::tiny_recipe_text());
    const Outcome trained =
        sluice({"train", at("tiny.yaml"), "--set", "train.steps=4", "--out", at("model")});
    ASSERT_EQ(trained.status, 0) << trained.errors;
  }
  [[nodiscard]] std::string at(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
  }
  [[nodiscard]] Outcome sluice(const std::vector<std::string>& arguments) const {
    return run_program(folder_.path(), arguments);
  }

  ScratchFolder folder_;
};

TEST_F(TransformProgram, MakesARunThatTrainsEvaluatesAndGenerates) {
  write("prune.yaml",
        "from: model\nmethod: {type: prune, num_experts: 2}\ncalibration: {tokens: 256}\n");
  const Outcome pruned = sluice({"transform", at("prune.yaml"), "--out", at("pruned")});
  ASSERT_EQ(pruned.status, 0) << pruned.errors;
  EXPECT_THAT(pruned.output, AllOf(HasSubstr("by prune reap"), HasSubstr("active per token"),
                                   HasSubstr("held-out tokens: loss"), HasSubstr("go on")));
  std::ifstream receipt(folder_ / "pruned" / "transform.json");
  const auto json = nlohmann::json::parse(receipt);
  EXPECT_EQ(json.at("layers").size(), 2U);
  EXPECT_LT(json.at("after").at("parameters"), json.at("before").at("parameters"));

  const Outcome again = sluice({"transform", at("prune.yaml"), "--out", at("pruned")});
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.errors, HasSubstr("holds a run already"));

  EXPECT_EQ(sluice({"eval", at("pruned")}).status, 0);
  EXPECT_EQ(sluice({"generate", at("pruned"), "--prompt", "a", "--tokens", "5"}).status, 0);
  const Outcome healed = sluice({"train", (folder_ / "pruned" / "recipe.yaml").string(), "--set",
                                 "train.steps=2", "--out", at("pruned")});
  EXPECT_EQ(healed.status, 0) << healed.errors;
  EXPECT_THAT(healed.output, HasSubstr("2 steps"));
}

TEST_F(TransformProgram, ComparesMethodsInOneTable) {
  write("table.yaml",
        "from: model\n"
        "method:\n"
        "  - {type: prune, num_experts: 2, criterion: {type: random}}\n"
        "  - {type: merge, num_experts: 2}\n"
        "seeds: [1, 2]\ncalibration: {tokens: 256}\n");
  const Outcome compared =
      sluice({"transform", at("table.yaml"), "--compare", "--out", at("table")});
  ASSERT_EQ(compared.status, 0) << compared.errors;
  EXPECT_THAT(compared.output,
              AllOf(HasSubstr("| prune random | 2 |"), HasSubstr("| merge | 2 |")));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "table" / "table.csv"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "table" / "checkpoints"));

  const Outcome one = sluice({"transform", at("table.yaml"), "--out", at("one")});
  EXPECT_EQ(one.status, 2);
  EXPECT_THAT(one.errors, HasSubstr("found 2 methods and 2 seeds"));
}

TEST_F(TransformProgram, ComparesOverModels) {
  const Outcome trained = sluice({"train", at("tiny.yaml"), "--set", "train.steps=4", "--set",
                                  "seed=7", "--out", at("other")});
  ASSERT_EQ(trained.status, 0) << trained.errors;
  write("table.yaml",
        "from: nowhere\nmethod: {type: merge, num_experts: 2}\ncalibration: {tokens: 256}\n");
  const std::vector<std::string> over = {"transform", at("table.yaml"), "--from", at("model"),
                                         "--from",    at("other"),      "--out",  at("table")};
  const Outcome one = sluice(over);
  EXPECT_EQ(one.status, 2);
  EXPECT_THAT(one.errors, HasSubstr("--from: found 2 models, a run takes one"));

  std::vector<std::string> arguments = over;
  arguments.emplace_back("--compare");
  const Outcome compared = sluice(arguments);
  ASSERT_EQ(compared.status, 0) << compared.errors;
  EXPECT_THAT(compared.output, AllOf(HasSubstr("| none | 2 |"), HasSubstr("| merge | 2 |")));
  std::ifstream table(folder_ / "table" / "table.csv");
  const std::string csv{std::istreambuf_iterator<char>(table), {}};
  EXPECT_THAT(csv, AllOf(HasSubstr(at("model")), HasSubstr(at("other")), HasSubstr("num_experts: 2")));
}

TEST_F(TransformProgram, SaysWhatItNeeds) {
  write("few.yaml", "from: model\nmethod: {type: prune, num_experts: 1}\n");
  const Outcome few = sluice({"transform", at("few.yaml"), "--out", at("few")});
  EXPECT_EQ(few.status, 2);
  EXPECT_THAT(few.errors, HasSubstr("allowed 2 (model.experts.top_k of the model) to 4"));
  const Outcome missing =
      sluice({"transform", at("few.yaml"), "--set", "from=nowhere", "--out", at("few")});
  EXPECT_EQ(missing.status, 2);
  EXPECT_THAT(missing.errors, HasSubstr("no such file or folder"));
  const Outcome wrong = sluice({"train", at("few.yaml"), "--out", at("few")});
  EXPECT_EQ(wrong.status, 2);
  EXPECT_THAT(wrong.errors, HasSubstr("is a transformation, not a recipe; `sluice transform"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "few"));
}

}  // namespace
}  // namespace sluice
