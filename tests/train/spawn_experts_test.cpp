#include "train/spawn_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/step_bench.h"
#include "tests/support/tiny_model.h"
#include "train/evaluate.h"
#include "train/plan.h"

namespace sluice {
namespace {

using testing::Bench;
using ::testing::Each;
using ::testing::IsEmpty;
using testing::parameter;
using testing::tiny_recipe;
using testing::uneven_batch;

/// Two expert layers of four experts, top-2; the first three steps are dense.
Recipe recipe_of(const std::string& diversify, const std::string& dtype = "f64",
                 const std::string& more = "") {
  return tiny_recipe(
      fmt::format("model: {{dtype: {}, experts: {{diversify: {{steps: 3, {}}}}}}}\n{}", dtype,
                  diversify, more));
}

std::vector<double> numbers(const Tensor& x) {
  const auto values = x.span<double>();
  return {values.begin(), values.end()};
}

/// The numbers of expert e in a stack.
std::vector<double> of_expert(const std::vector<double>& stack, size_t e) {
  const size_t size = stack.size() / 4;
  return {stack.begin() + static_cast<int64_t>(e * size),
          stack.begin() + static_cast<int64_t>((e + 1) * size)};
}

void run_steps(Bench& bench, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const StepResult result = bench.step.run(uneven_batch(), {.step = i});
    ASSERT_TRUE(result.applied) << result.problem;
  }
}

std::vector<double> losses_at(Bench& bench, int64_t step) {
  bench.routing->begin_evaluation();
  const auto losses = token_losses({bench.pool, *bench.model, *bench.routing, bench.one_rank},
                                   uneven_batch(), {.step = step});
  bench.routing->end_evaluation();
  return losses;
}

TEST(Diversify, TrainsOneExpertAndAsksNoRouterOrBalancerBeforeTheSpawning) {
  Bench bench(recipe_of("mask: 0.1"));
  const StateDict before = bench.state();
  run_steps(bench, 0, 2);
  const StateDict after = bench.state();
  EXPECT_EQ(after.at("balance/1/loss_free_bias/bias"), before.at("balance/1/loss_free_bias/bias"));
  for (const LayerLoad& load : bench.routing->loads()) EXPECT_THAT(load.counts, Each(0));
  const Parameter& up = parameter(bench, "layers.1.experts.w_up");
  const std::vector<double> grad = numbers(up.grad);
  const auto is_zero = [](double g) { return g == 0.0; };
  EXPECT_FALSE(std::ranges::all_of(of_expert(grad, 0), is_zero));
  for (size_t e = 1; e < 4; ++e) EXPECT_TRUE(std::ranges::all_of(of_expert(grad, e), is_zero)) << e;
  EXPECT_TRUE(
      parameter(bench, "layers.1.router.weight").grad_is_zero ||
      std::ranges::all_of(numbers(parameter(bench, "layers.1.router.weight").grad), is_zero));
}

TEST(Diversify, WithoutMaskAndNoiseGivesTheOutputOfTheOneExpert) {
  Bench bench(recipe_of("mask: 0.0"));
  run_steps(bench, 0, 3);
  // Weights are renormalised, so they sum to 1.
  const std::vector<double> dense = losses_at(bench, 2);
  const std::vector<double> sparse = losses_at(bench, 3);
  for (size_t t = 0; t < dense.size(); ++t) EXPECT_NEAR(sparse[t], dense[t], 1e-12) << t;
  EXPECT_NE(dense[0], 0.0);
  // From here on experts are experts.
  run_steps(bench, 3, 5);
  EXPECT_EQ(bench.routing->loads()[0].tokens * 2,
            bench.routing->loads()[0].counts[0] + bench.routing->loads()[0].counts[1] +
                bench.routing->loads()[0].counts[2] + bench.routing->loads()[0].counts[3]);
  EXPECT_NE(losses_at(bench, 3), losses_at(bench, 2));
}

TEST(Diversify, BeginsAsTheModelWithOneExpert) {
  Bench begun(recipe_of("mask: 0.1"));
  Bench dense(
      tiny_recipe("model: {dtype: f64, experts: {num_experts: 1, top_k: 1, router: {type: top_k, "
                  "weights: as_is}}}"));
  // The same initial values; the stacks of one expert hold expert 0.
  for (Parameter* p : dense.model->parameters()) {
    Tensor& from = parameter(begun, p->name).value;
    std::copy_n(from.data<double>(), p->value.numel(), p->value.data<double>());
  }
  const StepResult a = begun.step.run(uneven_batch(), {});
  const StepResult b = dense.step.run(uneven_batch(), {});
  EXPECT_NEAR(a.loss, b.loss, 1e-13);
  EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-13);
}

/// Expert 0 before the spawning after the third step, and the stack after it.
struct Spawned {
  std::vector<double> before;
  std::vector<double> after;
};
Spawned spawn(const std::string& diversify) {
  // The step of the spawning itself changes nothing: its learning rate is 0.
  Bench bench(recipe_of(diversify, "f64", "optim: {learning_rate: 0.0}"));
  const Parameter& up = parameter(bench, "layers.1.experts.w_up");
  run_steps(bench, 0, 2);
  Spawned result{.before = of_expert(numbers(up.value), 0), .after = {}};
  run_steps(bench, 2, 3);
  result.after = numbers(up.value);
  return result;
}

TEST(Diversify, ZeroesItsShareOfWeightsDifferentlyInEveryExpert) {
  const Spawned spawned = spawn("mask: 0.3");
  int64_t zeroed = 0;
  for (size_t e = 0; e < 4; ++e) {
    const std::vector<double> own = of_expert(spawned.after, e);
    for (size_t i = 0; i < own.size(); ++i) {
      if (own[i] == 0.0) {
        ++zeroed;
      } else {
        EXPECT_EQ(own[i], spawned.before[i]);
      }
    }
    for (size_t other = 0; other < e; ++other) EXPECT_NE(own, of_expert(spawned.after, other));
  }
  const auto n = static_cast<double>(spawned.after.size());
  EXPECT_NEAR(static_cast<double>(zeroed) / n, 0.3, 5.0 * std::sqrt(0.21 / n));
}

TEST(Diversify, AddsNoiseInProportionToTheWeights) {
  const Spawned spawned = spawn("mask: 0.0, noise: 0.05");
  double mean = 0.0;
  for (const double w : spawned.before) mean += w / static_cast<double>(spawned.before.size());
  double variance = 0.0;
  for (const double w : spawned.before) {
    variance += (w - mean) * (w - mean) / static_cast<double>(spawned.before.size());
  }
  double squares = 0.0;
  for (size_t i = 0; i < spawned.after.size(); ++i) {
    const double added = spawned.after[i] - spawned.before[i % spawned.before.size()];
    EXPECT_NE(added, 0.0);
    squares += added * added;
  }
  const auto n = static_cast<double>(spawned.after.size());
  // A sample variance of n normal numbers deviates by sqrt(2 / n) of itself.
  EXPECT_NEAR(squares / n / (0.05 * 0.05 * variance), 1.0, 5.0 * std::sqrt(2.0 / n));
}

TEST(Diversify, CopiesOrResetsTheMomentsOfExpertsOnly) {
  for (const std::string moments : {"copy", "reset"}) {
    Bench bench(recipe_of("moments: " + moments));
    run_steps(bench, 0, 3);
    const StateDict state = bench.state();
    for (const std::string moment : {"m", "v"}) {
      const auto values = state.at("optim/layers.1.experts.w_up/" + moment).values<double>();
      const std::vector<double> stack(values.begin(), values.end());
      const auto is_zero = [](double m) { return m == 0.0; };
      EXPECT_EQ(std::ranges::all_of(of_expert(stack, 0), is_zero), moments == "reset");
      for (size_t e = 1; e < 4; ++e) EXPECT_EQ(of_expert(stack, e), of_expert(stack, 0));
    }
    const auto norm = state.at("optim/final_norm.weight/m").values<double>();
    EXPECT_FALSE(std::ranges::all_of(norm, [](double m) { return m == 0.0; }));
  }
}

TEST(Diversify, SpawnsAlsoWhenTheUpdateOfThatStepIsSkipped) {
  Bench bench(recipe_of("mask: 0.0"));
  run_steps(bench, 0, 2);
  Batch batch = testing::make_batch({{4}});
  std::fill(batch.targets.begin(), batch.targets.end(), kIgnoredTarget);
  const StepResult result = bench.step.run(batch, {.step = 2});
  EXPECT_TRUE(result.empty);
  const std::vector<double> stack = numbers(parameter(bench, "layers.1.experts.w_up").value);
  for (size_t e = 1; e < 4; ++e) EXPECT_EQ(of_expert(stack, e), of_expert(stack, 0));
}

TEST(Diversify, ResumesBitForBitBeforeAtAndAfterTheSpawning) {
  const Recipe recipe = recipe_of("mask: 0.1, noise: 0.01", "f32");
  SingleRank communicator;
  sluice::Run whole(recipe, communicator);
  for (int i = 0; i < 6; ++i) (void)whole.step();
  for (const int stop : {2, 3, 4}) {
    sluice::Run begun(recipe, communicator);
    for (int i = 0; i < stop; ++i) (void)begun.step();
    sluice::Run resumed(recipe, communicator, begun.checkpoint({}), "memory");
    for (int i = stop; i < 6; ++i) (void)resumed.step();
    EXPECT_THAT(testing::differing_arrays(testing::state_of(resumed), testing::state_of(whole)),
                IsEmpty())
        << stop;
  }
}

TEST(Diversify, IsRecomputedBitForBitInBothPhases) {
  Bench once(recipe_of("mask: 0.1", "f32"), 40);
  Bench twice(recipe_of("mask: 0.1", "f32", "train: {recompute: all}"), 40);
  run_steps(once, 0, 5);
  run_steps(twice, 0, 5);
  EXPECT_THAT(testing::differing_arrays(once.state(), twice.state()), IsEmpty());
}

TEST(Diversify, IsPlannedWithAllExperts) {
  const Plan planned = make_plan(recipe_of("mask: 0.1", "f32"), 64, 1000);
  const Plan sparse = make_plan(tiny_recipe(), 64, 1000);
  EXPECT_EQ(planned.cost.total().flops, sparse.cost.total().flops);
}

}  // namespace
}  // namespace sluice
