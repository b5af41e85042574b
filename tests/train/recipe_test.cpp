#include "train/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/error.h"
#include "layers/ffns/moe.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/build.h"
#include "train/plan.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ScratchFolder;
using testing::tiny_dense_recipe;
using testing::tiny_recipe;

std::string error_of_changes(std::string_view changes) {
  return error_of<ConfigError>([&] { (void)tiny_recipe(changes); });
}

std::vector<std::string> keys_of(const std::vector<FieldDifference>& differences) {
  std::vector<std::string> keys;
  for (const FieldDifference& difference : differences) keys.push_back(difference.key);
  return keys;
}

TEST(Recipe, HasTheDefaultsOfTheDesign) {
  const Recipe recipe;
  EXPECT_EQ(recipe.seed, 1);
  EXPECT_FALSE(recipe.threads.has_value());
  EXPECT_EQ(recipe.model.pattern, "(AE)x6");
  EXPECT_EQ(recipe.train.steps.to_string(), "600 steps");
  EXPECT_EQ(recipe.train.global_batch.to_string(), "8192 tokens");
  EXPECT_EQ(recipe.train.max_nonfinite, 3);
  EXPECT_EQ(recipe.checkpoint.every.to_string(), "200 steps");
  EXPECT_EQ(recipe.optim.type, "adamw");
}

TEST(Recipe, OfAnExpertDiversifyPhaseThatEndsWithTheRunIsRefused) {
  const auto with = [](std::string_view length, int64_t dense) {
    return fmt::format("train: {{steps: {}}}\nmodel: {{experts: {{diversify: {{steps: {}}}}}}}",
                       length, dense);
  };
  EXPECT_EQ(steps_without_routes(tiny_recipe(with("8 steps", 7))), 7);
  EXPECT_EQ(steps_without_routes(tiny_recipe()), 0);
  EXPECT_THAT(error_of_changes(with("8 steps", 8)),
              HasSubstr("model.experts.diversify.steps: found 8, allowed less than 8, the steps of "
                        "the run (train.steps)"));
  // Of 128 tokens each.
  EXPECT_THAT(error_of_changes(with("1000 tokens", 9)), HasSubstr("allowed less than 8"));
  // The length of the data is not known here, but to the plan.
  const Recipe recipe = tiny_recipe(with("1 epochs", 9));
  EXPECT_NO_THROW((void)make_plan(recipe, 300, 1280));
  EXPECT_THAT(error_of<ConfigError>([&] { (void)make_plan(recipe, 300, 1152); }),
              HasSubstr("diversify.steps: found 9, allowed less than 9"));
}

TEST(Recipe, WithExpertsMustNameABalancingMethod) {
  EXPECT_THAT(error_of_changes("balance: []"),
              AllOf(HasSubstr("balance: not given"), HasSubstr("type: none")));
  EXPECT_EQ(tiny_recipe("balance: {type: none}").balance.front().type, "none");
}

TEST(Recipe, ChecksAScheduledTopKOverTheWholeRun) {
  const auto with_top_k = [](std::string_view top_k, std::string_view router) {
    return fmt::format("model: {{experts: {{num_experts: 4, top_k: {}, router: {}}}}}", top_k,
                       router);
  };
  // A schedule may depend on the length of the run, which no check needs.
  const Recipe recipe =
      tiny_recipe(with_top_k("{type: linear, from: 4, to: 2}", "{type: top_k, scores: softmax}"));
  EXPECT_TRUE(recipe.has_experts());
  EXPECT_THAT(error_of_changes(with_top_k("{type: linear, from: 6, to: 2}", "{type: top_k}")),
              HasSubstr("top_k: found 6, allowed a whole number from 1 to 4 (num_experts)"));
  EXPECT_THAT(error_of_changes(with_top_k("{type: linear, from: 2, to: 4}",
                                          "{type: node_limited, n_group: 4, topk_group: 2}")),
              HasSubstr("top_k: found 4, allowed 1 to 2"));
  EXPECT_THAT(error_of_changes(with_top_k("{type: linear, from: 4, to: 1}",
                                          "{type: top_k, weights: renormalise}")),
              HasSubstr("gives the router no gradient"));
}

TEST(Recipe, RefusesSequencesThatPositionsDoNotReach) {
  EXPECT_THAT(error_of_changes("model: {attention: {max_position_embeddings: 16}}\n"
                               "data: {sequence_length: 32}"),
              HasSubstr("data.sequence_length: found 32, allowed 1 to 16"));
}

TEST(Recipe, WithoutExpertsHasNoBalancingMethod) {
  EXPECT_THAT(error_of<ConfigError>([] { (void)tiny_dense_recipe("balance: {type: bip}"); }),
              HasSubstr("no symbol of model.pattern is an expert layer"));
}

TEST(Recipe, RefusesATraceOfALayerThatIsNotThere) {
  EXPECT_THAT(error_of_changes("train: {trace: {layers: [0, 2]}}"),
              HasSubstr("train.trace.layers: found 2, allowed 0 to 1, the model's expert layers"));
}

TEST(Recipe, RefusesTwoMethodsThatSelect) {
  EXPECT_THAT(error_of_changes("balance: [{type: bip}, {type: loss_free_bias}]"),
              HasSubstr("both choose experts"));
}

TEST(Recipe, RefusesALoadLossWithoutNoise) {
  const auto with_router = [](std::string_view router) {
    return fmt::format(
        "model: {{experts: {{router: {{type: {}}}}}}}\n"
        "balance: [{{type: importance_loss}}, {{type: load_loss}}]",
        router);
  };
  EXPECT_THAT(error_of_changes(with_router("top_k")),
              HasSubstr("balance: load_loss needs a router with noise; found "
                        "model.experts.router top_k, allowed noisy_top_k"));
  EXPECT_EQ(tiny_recipe(with_router("noisy_top_k")).balance.size(), 2U);
}

TEST(Recipe, ChecksBalancersAgainstTheExpertsOfTheModel) {
  EXPECT_THAT(error_of_changes("model: {experts: {num_experts: 6}}\n"
                               "balance: {type: device_aux_loss, groups: 4}"),
              HasSubstr("device_aux_loss.groups: found 4, allowed a divisor of 6 (num_experts)"));
}

TEST(Recipe, TakesAScheduleForTheCapacity) {
  const Recipe recipe =
      tiny_recipe("model: {experts: {capacity_factor: {type: linear, from: 2, to: 1}}}");
  const auto& experts = dynamic_cast<const ExpertsConfig&>(recipe.model.section("experts"));
  EXPECT_EQ(experts.capacity_factor->type(), "linear");
  Recipe copy = parse_recipe(resolved_text(recipe), "resolved");
  EXPECT_EQ(resolved_text(copy), resolved_text(recipe));
  EXPECT_THAT(
      error_of_changes("model: {experts: {capacity_factor: {type: linear, from: 2, to: 0}}}"),
      HasSubstr("the schedule reaches 0, allowed more than 0"));
  EXPECT_THAT(error_of_changes("model: {experts: {capacity_factor: 0}}"),
              HasSubstr("found 0, allowed more than 0 or none or a schedule such as"));
  EXPECT_FALSE(
      dynamic_cast<const ExpertsConfig&>(
          tiny_recipe("model: {experts: {capacity_factor: none}}").model.section("experts"))
          .capacity_factor.has_value());
}

TEST(Recipe, ChecksLengthsAndUnits) {
  EXPECT_THAT(error_of_changes("train: {steps: 10%}"),
              HasSubstr("steps: found 10%, allowed a positive number of steps, tokens or epochs"));
  EXPECT_THAT(error_of_changes("train: {global_batch: 8}"),
              HasSubstr("global_batch: found 8 steps, allowed a number of tokens"));
  EXPECT_THAT(error_of_changes("train: {micro_batch: 2 steps}"),
              HasSubstr("micro_batch: found 2 steps, allowed auto or a number of tokens"));
  EXPECT_THAT(error_of_changes("train: {max_time: soon}"),
              HasSubstr("found \"soon\", allowed none or a time such as"));
}

TEST(Recipe, ChecksWhatSpansSections) {
  EXPECT_THAT(error_of_changes("model: {learned_positions: 16}"),
              HasSubstr("data.sequence_length: found 32, allowed 1 to 16"));
  EXPECT_THAT(error_of_changes("train: {global_batch: 16 tokens}"),
              HasSubstr("train.global_batch: found 16 tokens, allowed at least 32"));
}

TEST(Recipe, ReadsLettersOfItsOwn) {
  const std::string local =
      "model: {pattern: AEWE, variants: {W: {type: attention, num_heads: 4, window: 3}}}";
  Recipe recipe = tiny_recipe(local);
  ASSERT_EQ(recipe.model.variants.size(), 1U);
  EXPECT_EQ(recipe.model.sublayers()[2].key, "variants.W");
  Recipe copy = parse_recipe(resolved_text(recipe), "resolved");
  EXPECT_THAT(keys_of(differences(recipe, copy)), IsEmpty());
  EXPECT_EQ(copy.model.sublayers()[2].key, "variants.W");
  EXPECT_THAT(
      error_of_changes("model: {pattern: AEWE, variants: {W: {type: attention, windw: 3}}}"),
      HasSubstr("model.variants.W.windw"));
  EXPECT_THAT(error_of_changes("model: {pattern: AEWE, variants: {W: {type: attentive}}}"),
              HasSubstr("model.variants.W.type"));
  EXPECT_THAT(error_of_changes("model: {pattern: AEWE, variants: [W]}"),
              HasSubstr("model.variants: found"));
}

TEST(Recipe, SuggestsTheNearestKey) {
  EXPECT_THAT(error_of_changes("train: {max_nonfinit: 2}"),
              AllOf(HasSubstr("train.max_nonfinit"), HasSubstr("did you mean \"max_nonfinite\"?")));
}

TEST(Recipe, ReportsEveryProblemAtOnce) {
  EXPECT_THAT(error_of_changes("seed: many\ntrain: {max_nonfinite: 0}\nmodle: {}"),
              AllOf(HasSubstr("seed: "), HasSubstr("train.max_nonfinite: "), HasSubstr("modle: ")));
}

TEST(Recipe, ReadsBackItsResolvedText) {
  Recipe recipe = tiny_recipe("train: {max_time: 1.5 h, freeze: [\"embedding.*\"]}");
  Recipe copy = parse_recipe(resolved_text(recipe), "resolved");
  EXPECT_THAT(keys_of(differences(recipe, copy)), IsEmpty());
  EXPECT_EQ(resolved_text(copy), resolved_text(recipe));
}

TEST(Recipe, LoadsFilesAndOverrides) {
  const ScratchFolder scratch;
  std::ofstream(scratch / "a.yaml") << testing::tiny_recipe_text();
  std::ofstream(scratch / "b.yaml") << "train: {steps: 5}\nseed: 3\n";
  const Recipe recipe = load_recipe(
      {{(scratch / "a.yaml").string(), (scratch / "b.yaml").string()}, {"train.steps=6"}});
  EXPECT_EQ(recipe.seed, 3);
  EXPECT_EQ(recipe.train.steps.to_string(), "6 steps");
}

TEST(RefusedChanges, LeaveOutWhatMayChange) {
  const Recipe before = tiny_recipe();
  const Recipe after = tiny_recipe(
      "threads: 2\ntrain: {steps: 99, max_time: 2 h, recompute: all, memory_budget: 2 GiB, "
      "evaluate: {every: never}}\n"
      "checkpoint: {keep: 7}\nlog: {every: 5}");
  EXPECT_THAT(refused_changes(before, after), IsEmpty());
}

TEST(RefusedChanges, NameEveryOtherKeyWithBothValues) {
  const auto refused =
      refused_changes(tiny_recipe(), tiny_recipe("seed: 8\nmodel: {hidden_size: 32}"));
  EXPECT_THAT(keys_of(refused), ElementsAre("seed", "model.hidden_size"));
  EXPECT_EQ(refused[1].before, "16");
  EXPECT_EQ(refused[1].after, "32");
}

TEST(WallTime, ReadsSecondsMinutesAndHours) {
  EXPECT_DOUBLE_EQ(parse_wall_time("90 s"), 90.0);
  EXPECT_DOUBLE_EQ(parse_wall_time("30m"), 1800.0);
  EXPECT_DOUBLE_EQ(parse_wall_time("1.5 h"), 5400.0);
  for (const std::string wrong : {"", "5", "-1 h", "0 s", "1 d", "h", "1 h 3", "nan s"}) {
    EXPECT_THROW((void)parse_wall_time(wrong), ConfigError) << wrong;
  }
}

TEST(MemoryBudget, ReadsBinaryAndDecimalUnits) {
  EXPECT_EQ(parse_memory("800 MiB"), int64_t{800} << 20);
  EXPECT_EQ(parse_memory("2GiB"), int64_t{2} << 30);
  EXPECT_EQ(parse_memory("1.5 GB"), 1500000000);
  for (const char* text : {"2", "2 G", "-1 GiB", "0 MiB", "much", "1e30 GiB"}) {
    EXPECT_THROW((void)parse_memory(text), ConfigError) << text;
  }
  EXPECT_THAT(error_of_changes("train: {memory_budget: 2G}"),
              HasSubstr("found \"2G\", allowed none or a size such as 800 MiB or 2 GiB"));
}

TEST(MemoryBudget, IsWantedByAutomaticRecomputation) {
  EXPECT_THAT(error_of_changes("train: {recompute: auto}"),
              HasSubstr("recompute: found auto without a memory_budget; give one, as in 2 GiB"));
  EXPECT_EQ(tiny_recipe("train: {recompute: auto, memory_budget: 2 GiB}").train.recompute,
            std::nullopt);
}

}  // namespace
}  // namespace sluice
