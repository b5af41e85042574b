// What `plan` says about the experts per token over a run. Its counts of parameters and FLOPs
// against formulas are with the shipped recipes.

#include "train/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using testing::tiny_recipe;

constexpr int64_t kVocab = 257;

Plan plan_of(std::string_view changes) { return make_plan(tiny_recipe(changes), kVocab, 0); }

Plan plan_of_top_k(int64_t k) {
  return plan_of(fmt::format("model: {{experts: {{top_k: {}}}}}\ntrain: {{steps: 101}}", k));
}

TEST(PlannedActivity, FollowsAScheduleOverSteps) {
  // From 4 to 2 experts over the first 50 of 101 steps.
  const Plan plan = plan_of(
      "model: {experts: {top_k: {type: linear, from: 4, to: 2, over: 50 steps}}}\n"
      "train: {steps: 101}");
  ASSERT_TRUE(plan.activity.has_value());
  const PlannedActivities& activity = *plan.activity;
  EXPECT_EQ(activity.start.step, 0);
  EXPECT_EQ(activity.middle.step, 50);
  EXPECT_EQ(activity.end.step, 100);
  EXPECT_EQ(activity.start.experts, ActiveExperts::exactly(4.0));
  EXPECT_EQ(activity.middle.experts, ActiveExperts::exactly(2.0));
  EXPECT_EQ(activity.end.experts, ActiveExperts::exactly(2.0));
  // 2 for half of the run, and 4, 3 and 2 (rounded) for a quarter, a half and a quarter of the rest.
  EXPECT_NEAR(activity.mean.experts.expected, 2.5, 0.05);
}

TEST(PlannedActivity, FollowsAScheduleOverTokens) {
  // 128 tokens a step: 6400 tokens are 50 steps.
  const Plan by_tokens = plan_of(
      "model: {experts: {top_k: {type: linear, from: 4, to: 2, over: 6400 tokens}}}\n"
      "train: {steps: 101}");
  const Plan by_steps = plan_of(
      "model: {experts: {top_k: {type: linear, from: 4, to: 2, over: 50 steps}}}\n"
      "train: {steps: 101}");
  EXPECT_EQ(by_tokens.activity->mean.experts, by_steps.activity->mean.experts);
  EXPECT_EQ(by_tokens.activity->middle.experts, by_steps.activity->middle.experts);
}

TEST(PlannedActivity, CostsWhatAConstantNumberOfExpertsCosts) {
  const Plan plan = plan_of(
      "model: {experts: {top_k: {type: linear, from: 4, to: 1, over: 100 steps}, "
      "router: {type: top_k, weights: as_is}}}\ntrain: {steps: 101}");
  for (const PlannedActivity& at :
       {plan.activity->start, plan.activity->middle, plan.activity->end}) {
    const Plan constant = plan_of(
        fmt::format("model: {{experts: {{top_k: {}, router: {{type: top_k, weights: as_is}}}}}}\n"
                    "train: {{steps: 101}}",
                    at.experts.expected));
    EXPECT_DOUBLE_EQ(at.flops_per_token, constant.flops_per_token());
    EXPECT_DOUBLE_EQ(at.active_parameters, static_cast<double>(constant.parameters.active));
  }
}

TEST(PlannedActivity, CountsTheMeanExpertWhereTheyAreOfSeveralKinds) {
  // 2 of 4 experts, of which two are large and two small.
  const Plan plan = plan_of("model: {experts: {form: {type: heterogeneous}}}");
  EXPECT_GT(plan.parameters.experts, 0);
  EXPECT_EQ(plan.parameters.active, plan.parameters.total - plan.parameters.experts / 2);
}

TEST(PlannedActivity, OfAConstantIsThatAtEveryStep) {
  const Plan plan = plan_of_top_k(2);
  EXPECT_EQ(plan.activity->start.experts, ActiveExperts::exactly(2.0));
  EXPECT_EQ(plan.activity->mean.experts, ActiveExperts::exactly(2.0));
  EXPECT_DOUBLE_EQ(plan.mean_flops_per_token(), plan.flops_per_token());
}

TEST(PlannedActivity, CountsFrozenExpertsWithoutTheirWeightGradients) {
  const std::string frozen = "\ntrain: {steps: 10, freeze: [\"*.experts.w_*\"]}";
  const Plan falling =
      plan_of("model: {experts: {top_k: {type: linear, from: 4, to: 2, over: 5 steps}}}" + frozen);
  const Plan constant = plan_of("model: {experts: {top_k: 2}}" + frozen);
  EXPECT_DOUBLE_EQ(falling.activity->end.flops_per_token, constant.flops_per_token());
}

TEST(PlannedActivity, SaysWhatItIsWhereTheDataDecides) {
  const Plan plan = plan_of(
      "model: {experts: {top_k: 4, router: {type: dense_to_sparse, threshold: 0.2, "
      "temperature: {type: linear, from: 4.0, to: 0.1, over: 100 steps}}}}\ntrain: {steps: 101}");
  const PlannedActivities& activity = *plan.activity;
  EXPECT_EQ(activity.mean.experts.known, ActiveExperts::Known::at_initial_values);
  EXPECT_GT(activity.start.experts.expected, activity.middle.experts.expected);
  EXPECT_GT(activity.middle.experts.expected, activity.end.experts.expected);
  EXPECT_GT(activity.start.experts.expected, activity.mean.experts.expected);
  EXPECT_GT(activity.mean.experts.expected, activity.end.experts.expected);
  EXPECT_LT(activity.end.flops_per_token, activity.start.flops_per_token);
}

TEST(PlannedActivity, CostsWhatTheTrueExpertsCost) {
  // Of 4 slots over 4 true and 4 null experts 2 are true on average: as 2 slots without null ones.
  const Plan null = plan_of(
      "model: {experts: {top_k: 4, router: {type: null_experts, num_null_experts: 4}}}\n"
      "balance: {type: none}\ntrain: {steps: 101}");
  const Plan two = plan_of("model: {experts: {top_k: 2}}\ntrain: {steps: 101}");
  const auto of_experts = [](const Plan& plan) {
    return plan.activity->mean.flops_per_token - plan.flops_per_token(Phase::routing);
  };
  EXPECT_DOUBLE_EQ(null.activity->mean.experts.expected, 2.0);
  EXPECT_NEAR(of_experts(null), of_experts(two), 1e-6 * of_experts(two));
}

TEST(Plan, FindsThePeakWhereMostExpertsAreUsed) {
  const Plan growing = plan_of(
      "model: {experts: {top_k: {type: linear, from: 2, to: 4, over: 100 steps}}}\n"
      "train: {steps: 101}");
  EXPECT_EQ(growing.peak.total(), plan_of_top_k(4).peak.total());
  EXPECT_GT(growing.peak.total(), plan_of_top_k(2).peak.total());
}

TEST(Plan, OfADenseModelHasNoActivity) {
  const Plan plan = make_plan(testing::tiny_dense_recipe(), kVocab, 0);
  EXPECT_FALSE(plan.activity.has_value());
  EXPECT_EQ(plan.mean_flops_per_token(), plan.flops_per_token());
}

// --- memory --------------------------------------------------------------------------------------

int64_t saved_by(const Plan& plan, Phase phase, std::string_view op) {
  for (const SavedMemory::Entry& entry : plan.saved.entries) {
    if (entry.phase == phase && entry.op == op) return entry.bytes;
  }
  return 0;
}

TEST(PlannedMemory, ListsWhatTheTapeKeeps) {
  // 4 sequences of 32 tokens in one micro-batch, hidden size 16, two blocks, f32.
  const Plan plan = plan_of("");
  constexpr int64_t kRow = 16 * 4;
  constexpr int64_t kTokens = 128;
  // Per block: q [N, 2, 8], k and v [N, 1, 8], the output, and a log-sum-exp per head; the positions.
  EXPECT_EQ(saved_by(plan, Phase::attention, "causal_attention"),
            2 * kTokens * (3 * kRow + 2 * int64_t{sizeof(float)}) + kTokens * 4);
  // Per layer: the two pre-activations of the hidden rows [2 N, 12].
  EXPECT_GE(saved_by(plan, Phase::experts, "swiglu_experts"), 2 * 2 * 2 * kTokens * 12 * 4);
  EXPECT_GT(plan.saved.bytes(), 0);
  EXPECT_LT(plan.saved.bytes(), plan.peak[MemoryKind::activations]);
}

TEST(PlannedMemory, OfRecomputedBlocksIsTheirInputs) {
  const Plan plan = plan_of("train: {recompute: all}");
  // The hidden state before each of 4 blocks; the losses are a number each.
  const int64_t hidden = 4 * 128 * 16 * 4;
  int64_t of_blocks = 0;
  for (const SavedMemory::Entry& entry : plan.saved.entries) {
    if (entry.op == "recompute") of_blocks += entry.bytes;
  }
  EXPECT_EQ(of_blocks, hidden);
  EXPECT_LT(plan.saved.bytes(), plan_of("train: {recompute: experts}").saved.bytes());
  EXPECT_LT(plan_of("train: {recompute: experts}").saved.bytes(), plan_of("").saved.bytes());
}

TEST(PlannedMemory, OfSeveralMicroBatchesIsThatOfTheLargest) {
  const Plan one = plan_of("");
  const Plan four = plan_of("train: {micro_batch: 32 tokens}");
  EXPECT_LT(four.saved.bytes(), one.saved.bytes() / 3);
}

Plan plan_of_size(const std::string& name, const std::string& recompute) {
  return make_plan(load_recipe({{fmt::format("{}/recipes/sizes/{}.yaml", SLUICE_SOURCE_DIR, name)},
                                {"train.recompute=" + recompute}}),
                   kVocab, 0);
}

TEST(PlannedMemory, IsLittleMoreThanWhatMustBeHeld) {
  for (const std::string name : {"s_moe", "m_moe", "l_moe", "l_dense"}) {
    const Plan plan = plan_of_size(name, "none");
    const int64_t held =
        plan.peak.total() - plan.peak[MemoryKind::activations] + plan.saved.bytes();
    EXPECT_LE(static_cast<double>(plan.peak.total()), 1.15 * static_cast<double>(held)) << name;
  }
}

TEST(PlannedMemory, OfActivationsIsAQuarterWhereAllIsRecomputed) {
  EXPECT_LE(4 * plan_of_size("l_moe", "all").peak[MemoryKind::activations],
            plan_of_size("l_moe", "none").peak[MemoryKind::activations]);
}

// --- train.recompute: auto -----------------------------------------------------------------------

/// The peak with one way of recomputing, in bytes.
int64_t peak_of(std::string_view recompute) {
  return plan_of(fmt::format("train: {{recompute: {}}}", recompute)).peak.total();
}

Plan plan_within(int64_t bytes) {
  return plan_of(
      fmt::format("train: {{recompute: auto, memory_budget: {} KiB}}", (bytes + 1023) / 1024));
}

TEST(AutomaticRecompute, TakesTheCheapestThatFits) {
  const struct {
    std::string word;
    Recompute recompute;
  } cases[] = {{"none", Recompute::none}, {"experts", Recompute::experts}, {"all", Recompute::all}};
  for (const auto& [word, recompute] : cases) {
    const Plan plan = plan_within(peak_of(word));
    EXPECT_EQ(plan.sizes.recompute, recompute) << word;
    EXPECT_EQ(plan.peak.total(), peak_of(word)) << word;
    EXPECT_THAT(plan.sizes.choices,
                Contains(StartsWith(fmt::format("train.recompute: {}, ", word))))
        << word;
  }
}

TEST(AutomaticRecompute, SaysWhatTheOthersWouldTake) {
  const Plan plan = plan_within(peak_of("all"));
  EXPECT_THAT(plan.sizes.choices,
              Contains(AllOf(HasSubstr("none takes"), HasSubstr("experts takes"))));
}

TEST(AutomaticRecompute, PassesOverExpertsWhereThereAreNone) {
  const auto dense = [](std::string_view changes) {
    return make_plan(testing::tiny_dense_recipe(changes), kVocab, 0);
  };
  const int64_t least = dense("train: {recompute: all}").peak.total();
  const Plan plan = dense(
      fmt::format("train: {{recompute: auto, memory_budget: {} KiB}}", (least + 1023) / 1024));
  EXPECT_EQ(plan.sizes.recompute, Recompute::all);
  EXPECT_THAT(plan.sizes.choices, Contains(Not(HasSubstr("experts takes"))));
}

TEST(AutomaticRecompute, RefusesABudgetThatNothingFits) {
  EXPECT_THAT(error_of<ConfigError>(
                  [] { (void)plan_of("train: {recompute: auto, memory_budget: 10 KiB}"); }),
              AllOf(HasSubstr("train.memory_budget: found 10 KiB, allowed at least "),
                    HasSubstr("with train.recompute: all; raise it, or give a smaller "
                              "train.micro_batch (now 128 tokens)")));
}

TEST(MemoryBudget, HoldsForEveryRun) {
  EXPECT_THAT(
      error_of<ConfigError>([] { (void)plan_of("train: {memory_budget: 10 KiB}"); }),
      HasSubstr("with train.recompute: none; raise it, say train.recompute: auto, or give"));
  const Plan plan = plan_of("train: {memory_budget: 1 GiB}");
  EXPECT_EQ(plan.sizes.recompute, Recompute::none);
  EXPECT_EQ(plan.peak.total(), plan_of("").peak.total());
}

TEST(RunSizes, AreThoseOfThePlan) {
  const Recipe recipe = tiny_recipe("train: {recompute: auto, memory_budget: 1 GiB}");
  const RunSizes sizes = run_sizes(recipe, kVocab, 0);
  EXPECT_EQ(sizes.recompute, Recompute::none);
  EXPECT_EQ(sizes.choices, make_plan(recipe, kVocab, 0).sizes.choices);
}

}  // namespace
}  // namespace sluice
