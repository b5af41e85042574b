// What a comparison file means, and what is said about one that means nothing.

#include "train/compare/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/train/compare/comparison_files.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using testing::ComparisonFiles;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::string> names_of(const Comparison& comparison) {
  std::vector<std::string> names;
  for (const ComparisonCell& cell : comparison.cells) names.push_back(cell.name());
  return names;
}

TEST(Comparison, CrossesModelsWithVariationsAndAddsADenseTwinOfEach) {
  const ComparisonFiles files;
  const Comparison comparison = files.load(R"(
base: base.yaml
models:
  small: {model.experts.top_k: 2}
  large: {model.experts: {num_experts: 8, top_k: 3}}
variations:
  none: {balance: {type: none}}
  bip: {balance: {type: bip}, optim.learning_rate: 0.02}
budget: 2 steps
seeds: [4, 5]
)");
  EXPECT_THAT(names_of(comparison), ElementsAre("small-none", "small-bip", "small-dense_twin",
                                                "large-none", "large-bip", "large-dense_twin"));
  const ComparisonCell& cell = comparison.cells[4];
  EXPECT_EQ(cell.recipe.balance.front().type, "bip");
  EXPECT_EQ(cell.plan.sizes.steps, 2);
  EXPECT_EQ(cell.recipe_of(5).seed, 5);
  EXPECT_EQ(cell.run_name(5), "large-bip-s5");
  EXPECT_EQ(comparison.cells[0].recipe.balance.front().type, "none");
}

TEST(Comparison, WritesAGridOutUnderReadableNames) {
  const ComparisonFiles files;
  const Comparison comparison = files.load(R"(
base: base.yaml
variations:
  aux:
    balance: {type: aux_loss}
    grid: {balance.coefficient: [1.0e-3, 0.1], model.experts.top_k: [2, 3]}
  none: {balance: {type: none}}
dense_twin: false
)");
  EXPECT_THAT(names_of(comparison),
              ElementsAre("aux-coefficient=1.0e-3-top_k=2", "aux-coefficient=1.0e-3-top_k=3",
                          "aux-coefficient=0.1-top_k=2", "aux-coefficient=0.1-top_k=3", "none"));
}

TEST(Comparison, TakesAGridWithoutVariations) {
  const ComparisonFiles files;
  const Comparison comparison = files.load(R"(
base: base.yaml
grid: {balance: [{type: bip}, {type: none}], model.experts.top_k: [2, 3]}
dense_twin: false
)");
  EXPECT_THAT(names_of(comparison), ElementsAre("balance=bip-top_k=2", "balance=bip-top_k=3",
                                                "balance=none-top_k=2", "balance=none-top_k=3"));
  EXPECT_EQ(comparison.cells[1].recipe.balance.front().type, "bip");
}

TEST(Comparison, GivesTheTwinAsManyParametersAsATokenUses) {
  const ComparisonFiles files;
  const Comparison comparison =
      files.load("base: base.yaml\nvariations: {none: {balance: {type: none}}}\n");
  const ComparisonCell& moe = comparison.cells[0];
  const ComparisonCell& twin = comparison.cells[1];
  // By hand, per layer: a router of D E, experts of 3 D F each, of which two are used.
  constexpr int64_t D = 16, E = 4, F = 12, k = 2, kLayers = 2;
  const double per_layer = D * E + k * 3 * D * F;
  const auto width = static_cast<int64_t>(std::llround(per_layer / (3 * D)));
  EXPECT_EQ(
      twin.plan.parameters.active,
      moe.plan.parameters.active - kLayers * (static_cast<int64_t>(per_layer) - 3 * D * width));
  EXPECT_EQ(twin.plan.parameters.total, twin.plan.parameters.active);
  EXPECT_FALSE(twin.recipe.has_experts());
  EXPECT_TRUE(twin.recipe.balance.empty());
  EXPECT_THAT(twin.note, HasSubstr(fmt::format("of width {}", width)));
}

TEST(Comparison, GivesCommonSettingsToTheTwinAsWell) {
  const ComparisonFiles files;
  const Comparison comparison = files.load(R"(
base: base.yaml
set: {train.global_batch: 64 tokens, model.hidden_size: 32}
variations: {a: {balance: {type: aux_loss, coefficient: 0.5}}}
)");
  ASSERT_EQ(comparison.cells.size(), 2U);
  for (const ComparisonCell& cell : comparison.cells) {
    EXPECT_EQ(cell.recipe.train.global_batch.count, 64) << cell.name();
    EXPECT_EQ(cell.recipe.model.hidden_size, 32) << cell.name();
  }
}

TEST(Comparison, SaysEverythingThatIsWrongAtOnce) {
  const ComparisonFiles files;
  const std::string problems = files.problems_of(R"(base: base.yaml
variatons: {}
variations:
  good: {balance: {type: none}}
  bad: {balance: {type: bop}}
  worse: {modl.hidden_size: 3}
  "a/b": {balance: {type: none}}
  flat: {balance: {type: aux_loss}, grid: {balance.coefficient: 3}}
seeds: [1, 1]
)");
  EXPECT_THAT(problems, HasSubstr("c.yaml:2:1: variatons: unknown key of a comparison; did you "
                                  "mean \"variations\"?"));
  EXPECT_THAT(problems, HasSubstr("c.yaml:5:25: balance.type: found \"bop\", allowed none, "));
  EXPECT_THAT(problems, HasSubstr("(in bad)"));
  EXPECT_THAT(problems, HasSubstr("c.yaml:6:11: modl: unknown key; did you mean \"model\"?"));
  EXPECT_THAT(problems, HasSubstr("c.yaml:7:3: variations: found the name \"a/b\""));
  EXPECT_THAT(problems, HasSubstr("grid.balance.coefficient: found 3, allowed a list of values"));
  EXPECT_THAT(problems, HasSubstr("c.yaml:9:8: seeds: 1 stands there twice"));
}

TEST(Comparison, RefusesCellsOfOneName) {
  const ComparisonFiles files;
  EXPECT_THAT(files.problems_of("base: base.yaml\nmodels: {a: {}, a-b: {}}\n"
                                "variations: {b-c: {}, c: {}}\n"),
              HasSubstr("models: model a, variation b-c and model a-b, variation c would both be "
                        "named a-b-c; give one of them another name"));
}

TEST(Comparison, RefusesAFileThatComparesNothing) {
  const ComparisonFiles files;
  EXPECT_THAT(files.problems_of(""), HasSubstr("c.yaml"));
  EXPECT_THAT(files.problems_of("base: base.yaml\n"), HasSubstr("variations: missing"));
  EXPECT_THAT(files.problems_of("variations: {a: {}}\n"), HasSubstr("base: missing"));
  EXPECT_THAT(files.problems_of("base: gone.yaml\nvariations: {a: {}}\n"),
              AllOf(HasSubstr("c.yaml:1:7: base: "), HasSubstr("gone.yaml: no such file")));
  EXPECT_THAT(files.problems_of("base: base.yaml\nvariations: {a: {seed: 3}}\n"),
              HasSubstr("variations.a.seed: not allowed here"));
  EXPECT_THAT(files.problems_of("base: base.yaml\nvariations: {dense_twin: {}}\n"),
              HasSubstr("is that of the dense model that is derived"));
  EXPECT_THAT(files.problems_of("base: base.yaml\nvariations: {a: {}}\nbudget: 10%\n"),
              HasSubstr("budget: found 10%"));
}

TEST(Comparison, TheDenseTwinLeavesOutWhatOnlyExpertsCanDo) {
  const ComparisonFiles files;
  const Comparison comparison = files.load(R"(
base: base.yaml
set:
  train.trace.every: 2
  train.init_from: moe.h5
  train.consistency.coefficient: 1.0
variations: {a: {}}
)");
  ASSERT_EQ(names_of(comparison), (std::vector<std::string>{"a", "dense_twin"}));
  EXPECT_NE(comparison.cells[0].recipe.train.trace, nullptr);
  const TrainConfig& twin = comparison.cells[1].recipe.train;
  EXPECT_EQ(twin.trace, nullptr);
  EXPECT_EQ(twin.consistency, nullptr);
  EXPECT_EQ(twin.init_from, std::nullopt);
  EXPECT_EQ(twin.steps, comparison.cells[0].recipe.train.steps);
}

TEST(Comparison, TheDenseTwinFreezesWhatItHas) {
  const ComparisonFiles files;
  const Comparison comparison = files.load(R"(
base: base.yaml
set: {train.freeze: ["*router*", "embedding*", "*experts*"]}
variations: {a: {}}
)");
  ASSERT_EQ(comparison.cells.size(), 2U);
  EXPECT_EQ(comparison.cells[0].recipe.train.freeze.size(), 3U);
  EXPECT_THAT(comparison.cells[1].recipe.train.freeze, ElementsAre("embedding*"));
  EXPECT_THAT(comparison.cells[1].note,
              HasSubstr("nothing in it matches train.freeze *router*, *experts*"));
}

TEST(Comparison, TheDenseTwinIsReplayedNothing) {
  const ComparisonFiles files;
  const Comparison comparison =
      files.load("base: base.yaml\nset: {train.replay.from: traces}\nvariations: {a: {}}\n");
  ASSERT_EQ(comparison.cells.size(), 2U);
  EXPECT_EQ(comparison.cells[1].recipe.train.replay, nullptr);
}

TEST(Comparison, RefusesTextThatIsNotThere) {
  const ComparisonFiles files;
  const std::string problems = files.problems_of(R"(
base: base.yaml
set: {data.sources: [{path: gone.txt}]}
variations: {a: {}, b: {balance: {type: none}}}
)");
  // Relative to the comparison, once for all cells.
  EXPECT_THAT(problems, HasSubstr((files / "gone.txt").string()));
  EXPECT_THAT(problems, Not(HasSubstr("\n")));
}

TEST(Comparison, SaysThatADenseModelHasNoTwin) {
  const ComparisonFiles files;
  files.write("dense.yaml", R"(
model: {pattern: "AF", hidden_size: 16, attention: {num_heads: 2}, feed_forward: {intermediate_size: 8}}
data:
  tokenizer: {type: bytes}
  sequence_length: 32
  sources: [{type: synthetic, pattern: copy, documents: 20, min_length: 5, max_length: 60, alphabet: 24}]
train: {steps: 2, global_batch: 64 tokens}
)");
  const Comparison dense = files.load("base: dense.yaml\nvariations: {a: {}}\n");
  EXPECT_EQ(dense.cells.size(), 1U);
  EXPECT_THAT(dense.notes, ElementsAre(HasSubstr("no dense twin")));
}

TEST(Comparison, TellsAComparisonFromARecipe) {
  const ComparisonFiles files;
  EXPECT_FALSE(is_comparison_file(files / "base.yaml"));
  EXPECT_TRUE(is_comparison_file(files.write("c.yaml", "base: base.yaml\n")));
  EXPECT_FALSE(is_comparison_file(files / "none.yaml"));
}

}  // namespace
}  // namespace sluice
