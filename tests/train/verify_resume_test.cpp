#include "train/verify_resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/error.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::tiny_recipe;

std::vector<std::string> names_of(const ResumeVerdict& verdict) {
  std::vector<std::string> names;
  for (const ComparedState& state : verdict.compared) names.push_back(state.name);
  return names;
}

TEST(VerifyResume, FindsAResumedRunIdentical) {
  const ResumeVerdict verdict = verify_resume(tiny_recipe(), {.steps = 2});
  EXPECT_TRUE(verdict.is_identical());
  EXPECT_EQ(verdict.steps, 2);
  EXPECT_THAT(names_of(verdict),
              ElementsAre("model", "optim", "balance", "data", "run", "metrics"));
  for (const ComparedState& state : verdict.compared) EXPECT_GT(state.count, 0) << state.name;
}

TEST(VerifyResume, HoldsForEveryBalancingMethodAndNoise) {
  for (const char* balance :
       {"{type: none}", "{type: aux_loss}", "{type: sequence_aux_loss}", "{type: global_aux_loss}",
        "{type: bip}", "[{type: loss_free_bias}, {type: router_z_loss}]"}) {
    const Recipe recipe = tiny_recipe(
        fmt::format("balance: {}\nmodel: {{dropout: 0.1, experts: {{router: {{type: top_k, jitter: "
                    "0.1}}}}}}\ntrain: {{micro_batch: 64 tokens}}",
                    balance));
    EXPECT_TRUE(verify_resume(recipe, {.steps = 2}).is_identical()) << balance;
  }
}

TEST(VerifyResume, HoldsForADenseModel) {
  EXPECT_TRUE(verify_resume(testing::tiny_dense_recipe(), {.steps = 2}).is_identical());
}

std::string refusal(int64_t steps) {
  try {
    (void)verify_resume(tiny_recipe(), {.steps = steps});
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(VerifyResume, RefusesMoreStepsThanTheRecipeHas) {
  EXPECT_THAT(refusal(5), HasSubstr("--steps: found 5, allowed 1 to 4: the recipe trains 8 steps"));
  EXPECT_THAT(refusal(0), HasSubstr("--steps: found 0, allowed 1 or more"));
}

// --- what would be found -------------------------------------------------------------------------

RunTrace trace() {
  return {.state = {{"model/head", 1}, {"model/w", 2}, {"optim/w.m", 3}, {"run/step", 4}},
          .metrics = {{"step 3: train/loss", 1.5}, {"step 4: train/loss", std::nan("")}}};
}

/// "name: differing" of every kind with a difference.
std::vector<std::string> differences(const RunTrace& resumed) {
  std::vector<std::string> found;
  for (const ComparedState& state : compare_traces(trace(), resumed)) {
    for (const std::string& name : state.differing) found.push_back(state.name + ": " + name);
  }
  return found;
}

TEST(CompareTraces, FindsNothingInEqualOnes) {
  EXPECT_THAT(differences(trace()), IsEmpty());
  const auto compared = compare_traces(trace(), trace());
  ASSERT_EQ(compared.size(), 4u);
  EXPECT_EQ(compared[0].name, "model");
  EXPECT_EQ(compared[0].count, 2);
  EXPECT_EQ(compared[3].name, "metrics");
  EXPECT_EQ(compared[3].count, 2);
}

TEST(CompareTraces, FindsAChangedArray) {
  RunTrace resumed = trace();
  resumed.state["optim/w.m"] = 7;
  EXPECT_THAT(differences(resumed), ElementsAre("optim: optim/w.m"));
}

TEST(CompareTraces, FindsWhatOneSideLacks) {
  RunTrace resumed = trace();
  resumed.state.erase("model/w");
  resumed.state["balance/0/bias"] = 1;
  EXPECT_THAT(differences(resumed),
              ::testing::UnorderedElementsAre("model: model/w", "balance: balance/0/bias"));
}

TEST(CompareTraces, FindsAMetricThatMovedByOneBit) {
  RunTrace resumed = trace();
  resumed.metrics["step 3: train/loss"] = std::nextafter(1.5, 2.0);
  EXPECT_THAT(differences(resumed), ElementsAre("metrics: step 3: train/loss"));
}

TEST(ResumeVerdict, IsIdenticalOnlyWithoutADifference) {
  ResumeVerdict verdict{.steps = 1, .compared = {{.name = "model", .count = 3}}};
  EXPECT_TRUE(verdict.is_identical());
  verdict.compared[0].differing.push_back("model/head");
  EXPECT_FALSE(verdict.is_identical());
}

}  // namespace
}  // namespace sluice
