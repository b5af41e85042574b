// Runs of a dense model with adapters: where they start, what they train, what a plan says of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "tests/support/tiny_trained.h"
#include "train/parameter_count.h"
#include "train/plan.h"

namespace sluice {
namespace {

using testing::error_of;
using testing::logits_of;
using ::testing::HasSubstr;
using testing::state_of;
using testing::tiny_dense_recipe;

constexpr std::string_view kMola =
    "model: {adapters: {heads: {type: mola, linears: [attention.q, attention.v], rank: 2, "
    "num_experts: 3}}}\nbalance: {type: aux_loss}\n";
constexpr std::string_view kLora =
    "model: {adapters: {heads: {type: lora, linears: [attention.q, feed_forward.down], rank: "
    "2}}}\n";
constexpr std::string_view kMixLora =
    "model: {pattern: \"(AZ)x2\", feed_forward: ~, variants: {Z: {type: mixlora, "
    "intermediate_size: 24, rank: 2, "
    "num_experts: 3}}, adapters: {heads: {type: lora, linears: [attention.q], rank: 2}}}\n"
    "balance: {type: aux_loss}\n";

/// A dense checkpoint after a few steps.
class DenseModel {
 public:
  DenseModel() : path_((folder_ / "dense.h5").string()) {
    SingleRank communicator;
    sluice::Run run(tiny_dense_recipe("model: {init: {std: 0.2}}"), communicator);
    for (int step = 0; step < 3; ++step) (void)run.step();
    checkpoint_ = run.checkpoint(std::nullopt);
    write_checkpoint(real_file_system(), path_, checkpoint_);
  }
  [[nodiscard]] Recipe recipe(std::string_view adapters, const std::string& train = "") const {
    return tiny_dense_recipe(
        fmt::format("{}train: {{init_from: \"{}\", {}}}\n", adapters, path_, train));
  }
  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  testing::ScratchFolder folder_;
  std::string path_;
  Checkpoint checkpoint_;
};

const DenseModel& dense() {
  static const DenseModel model;
  return model;
}

sluice::Run make_run(const Recipe& recipe) {
  static SingleRank communicator;
  return sluice::Run(recipe, communicator);
}

class EveryStart : public ::testing::TestWithParam<std::string_view> {};

TEST_P(EveryStart, ComputesWhatTheDenseModelComputes) {
  sluice::Run run = make_run(dense().recipe(GetParam()));
  const std::vector<double> before = logits_of(dense().checkpoint());
  const std::vector<double> after = logits_of(run.checkpoint(std::nullopt));
  ASSERT_EQ(before.size(), after.size());
  double largest = 0.0;
  for (const double logit : before) largest = std::max(largest, std::abs(logit));
  for (size_t i = 0; i < before.size(); ++i) {
    ASSERT_NEAR(after[i], before[i], 5e-6 * largest) << i;
  }
}

TEST_P(EveryStart, TrainsAdaptersAndNothingElse) {
  sluice::Run run = make_run(dense().recipe(GetParam()));
  const StateDict first = state_of(run);
  double loss = 0.0;
  for (int step = 0; step < 4; ++step) {
    const StepResult result = run.step();
    ASSERT_TRUE(result.applied) << result.problem;
    loss = result.loss;
  }
  EXPECT_TRUE(std::isfinite(loss));
  const StateDict last = state_of(run);
  int changed = 0;
  for (const auto& [path, array] : last) {
    if (path.starts_with("optim/") && path.find("layers.") != std::string::npos) {
      EXPECT_THAT(path, HasSubstr(".adapters.")) << "has moments";
    }
    if (!path.starts_with("model/")) continue;
    const bool is_same = array == first.at(path);
    if (path.find(".adapters.") == std::string::npos) {
      EXPECT_TRUE(is_same) << path;
      EXPECT_TRUE(array == dense().checkpoint().state.at(path)) << path;
    } else {
      changed += is_same ? 0 : 1;
    }
  }
  EXPECT_GT(changed, 2);
}

INSTANTIATE_TEST_SUITE_P(Adapters, EveryStart, ::testing::Values(kLora, kMola, kMixLora),
                         [](const auto& which) {
                           return which.index == 0 ? "Lora" : which.index == 1 ? "Mola" : "MixLora";
                         });

TEST(AdapterRun, LowersTheLossOfTheFrozenModel) {
  sluice::Run run = make_run(dense().recipe(kMola, "steps: 40"));
  double first = 0.0;
  double last = 0.0;
  for (int step = 0; step < 40; ++step) {
    const double loss = run.step().loss;
    if (step < 5) first += loss / 5;
    if (step >= 35) last += loss / 5;
  }
  EXPECT_LT(last, first - 0.1);
}

TEST(AdapterRun, TrainsBesideThemWhatTheRecipeNames) {
  sluice::Run run = make_run(dense().recipe(kLora, "unfreeze: [\"*.norm.*\", embedding*]"));
  const StateDict first = state_of(run);
  ASSERT_TRUE(run.step().applied);
  ASSERT_TRUE(run.step().applied);
  const StateDict last = state_of(run);
  for (const auto& [path, array] : last) {
    if (!path.starts_with("model/") || path.find(".adapters.") != std::string::npos) continue;
    const bool is_named =
        path.find(".norm.") != std::string::npos || path.find("embedding") != std::string::npos;
    EXPECT_EQ(array == first.at(path), !is_named) << path;
  }
}

TEST(AdapterRun, KeepsExpertsThatWereTrainedElsewhere) {
  sluice::Run run = make_run(dense().recipe(kMola, "freeze: [\"*.w_a\", \"*.w_b\"]"));
  for (const auto& [path, array] : state_of(run)) {
    if (!path.starts_with("optim/") || path.find("layers.") == std::string::npos) continue;
    EXPECT_THAT(path, HasSubstr("router"));
  }
}

TEST(AdapterRun, SaysWhatUnfreezeIsFor) {
  SingleRank communicator;
  EXPECT_THAT(error_of<ConfigError>([&] {
                const sluice::Run run(tiny_dense_recipe("train: {unfreeze: [\"*\"]}"),
                                      communicator);
              }),
              HasSubstr("the model has no adapters"));
  EXPECT_THAT(error_of<ConfigError>([&] {
                const sluice::Run run(dense().recipe(kLora, "unfreeze: [nothing]"), communicator);
              }),
              HasSubstr("train.unfreeze: \"nothing\" matches no parameter"));
}

TEST(AdapterRecipe, NeedsABalancingMethodWhereSomethingRoutes) {
  EXPECT_THAT(
      error_of<ConfigError>([] {
        (void)tiny_dense_recipe("model: {adapters: {a: {type: mola, linears: [attention.q]}}}");
      }),
      HasSubstr("balance: not given"));
  EXPECT_THAT(error_of<ConfigError>([] {
                (void)tiny_dense_recipe(
                    "model: {adapters: {a: {type: smora, linears: [attention.q], "
                    "router: {type: hash}}}}\n"
                    "balance: {type: loss_free_bias}");
              }),
              HasSubstr("model.adapters.a.router hash"));
}

TEST(AdapterPlan, CountsTrainableAndFrozenParameters) {
  const Recipe recipe = tiny_dense_recipe(kMola);
  const Plan plan = make_plan(recipe, 257, 0);
  const Plan base = make_plan(tiny_dense_recipe(), 257, 0);
  // q is 16 x 16, v 16 x 8: three experts of rank 2 and a router each, in two layers.
  constexpr int64_t kExpert = 2 * (16 + 16) + 2 * (16 + 8);
  constexpr int64_t kRouters = 2 * 3 * 16;
  EXPECT_EQ(plan.parameters.trainable, 2 * (3 * kExpert + kRouters));
  EXPECT_EQ(plan.parameters.total, base.parameters.total + plan.parameters.trainable);
  EXPECT_EQ(plan.parameters.experts, 2 * 3 * kExpert);
  EXPECT_EQ(plan.parameters.active, base.parameters.total + 2 * (2 * kExpert + kRouters));
  ASSERT_TRUE(plan.activity.has_value());
  EXPECT_NEAR(plan.activity->start.experts.expected, 2.0, 1e-9);
}

TEST(Upcycling, OfAdaptersIsTheIdentity) {
  const Recipe recipe = tiny_dense_recipe(
      fmt::format("model: {{init: {{std: 0.2}}, adapters: {{a: {{type: mola, linears: "
                  "[attention.q, attention.o]}}}}}}\nbalance: {{type: aux_loss}}\n"
                  "upcycle: {{from: \"{}\"}}\n",
                  dense().path()));
  const sluice::Run run = make_run(recipe);
  ASSERT_TRUE(run.upcycling() && run.upcycling()->parity);
  EXPECT_EQ(run.upcycling()->parity->largest_difference, 0.0);
}

}  // namespace
}  // namespace sluice
