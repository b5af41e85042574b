#include "train/transforms/merge_adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/error_of.h"
#include "tests/support/tiny_run.h"
#include "tests/support/tiny_trained.h"

namespace sluice {
namespace {

using testing::error_of;
using testing::logits_of;
using ::testing::HasSubstr;

/// A checkpoint of a model with `adapters` after some steps.
Checkpoint trained_with(const std::string& adapters, const std::string& more = "",
                        std::string_view dtype = "f32") {
  Recipe recipe = testing::tiny_dense_recipe(fmt::format(
      "model: {{dtype: {}, init: {{std: 0.2}}, adapters: {{{}}}}}\n{}", dtype, adapters, more));
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  for (int step = 0; step < 3; ++step) (void)run.step();
  return run.checkpoint(std::nullopt);
}

/// To `tolerance` of the largest logit.
void expect_same_function(const Checkpoint& a, const Checkpoint& b, double tolerance) {
  const std::vector<double> before = logits_of(a);
  const std::vector<double> after = logits_of(b);
  ASSERT_EQ(before.size(), after.size());
  double largest = 0.0;
  for (const double logit : before) largest = std::max(largest, std::abs(logit));
  for (size_t i = 0; i < before.size(); ++i)
    ASSERT_NEAR(after[i], before[i], tolerance * largest) << i;
}

struct Mergeable {
  const char* name;
  const char* adapters;
  const char* more;
  int64_t adapters_in_all;
  int64_t matrices;
};

class EveryMergeable : public ::testing::TestWithParam<Mergeable> {};

TEST_P(EveryMergeable, IsTheSameFunctionMerged) {
  for (const auto& [dtype, tolerance] : {std::pair{"f32", 5e-6}, {"f64", 1e-12}}) {
    const Checkpoint before = trained_with(GetParam().adapters, GetParam().more, dtype);
    const MergedModel merged = merge_adapters(before, "run.h5");
    EXPECT_EQ(merged.adapters, GetParam().adapters_in_all);
    EXPECT_EQ(merged.matrices, GetParam().matrices);
    for (const auto& [path, array] : merged.checkpoint.state) {
      EXPECT_EQ(path.find("adapters"), std::string::npos) << path;
    }
    EXPECT_EQ(merged.checkpoint.meta.recipe.find("lora"), std::string::npos);
    expect_same_function(before, merged.checkpoint, tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Adapters, EveryMergeable,
    ::testing::Values(
        Mergeable{"Lora", "a: {type: lora, linears: [attention.q, feed_forward.up], b_std: 0.3}",
                  "", 4, 4},
        Mergeable{"TwoLorasOfOneMap",
                  "a: {type: lora, linears: [attention.q], b_std: 0.3}, b: {type: lora, linears: "
                  "[attention.q], b_std: 0.3, rank: 3}",
                  "", 4, 2},
        Mergeable{"Mos", "a: {type: mos, linears: [attention.v, feed_forward.down], b_std: 0.3}",
                  "", 4, 4},
        Mergeable{"StaticMixture", "a: {type: static_mixture, linears: [attention.o], b_std: 0.3}",
                  "", 2, 2},
        Mergeable{"MolaOfOneExpert",
                  "a: {type: mola, linears: [attention.o], b_std: 0.3, num_experts: 1, top_k: 1, "
                  "router: {type: top_k, weights: as_is, scale: 0.7}}",
                  "balance: {type: none}\n", 2, 2}),
    [](const auto& which) { return which.param.name; });

TEST(MergeAdapters, KeepsTheBalancersOfExpertsThatStay) {
  Recipe recipe = testing::tiny_recipe(
      "model: {init: {std: 0.2}, adapters: {a: {type: mola, linears: [attention.o], b_std: 0.3, "
      "num_experts: 1, top_k: 1, router: {type: top_k, weights: as_is}}}}\n");
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  for (int step = 0; step < 3; ++step) (void)run.step();
  const Checkpoint before = run.checkpoint(std::nullopt);
  ASSERT_EQ(run.routing().layers(), 4);
  const MergedModel merged = merge_adapters(before, "run.h5");
  expect_same_function(before, merged.checkpoint, 5e-6);
  // Layers 1 and 3 of four are the experts'.
  for (const auto& [path, array] : before.state) {
    if (path.starts_with("balance/1/")) {
      EXPECT_TRUE(merged.checkpoint.state.at("balance/0/" + path.substr(10)) == array);
    }
  }
}

TEST(MergeAdapters, StartsARunOfThePlainModel) {
  const MergedModel merged = merge_adapters(
      trained_with("a: {type: lora, linears: [attention.q], b_std: 0.3}",
                   "train: {freeze: [\"*.adapters.a.q.w_a\"], unfreeze: [final_norm*]}"),
      "run.h5");
  const TrainedModel trained = build_trained_model(merged.checkpoint, "merged.h5");
  EXPECT_TRUE(trained.recipe.model.adapters.empty());
  EXPECT_TRUE(trained.recipe.train.freeze.empty());
  for (const Parameter* parameter : trained.model->parameters()) {
    EXPECT_TRUE(parameter->trainable) << parameter->name;
  }
}

TEST(MergeAdapters, SaysWhyATokensOwnChoiceIsNoMatrix) {
  const auto error = [](const Checkpoint& checkpoint) {
    return error_of<ConfigError>([&] { (void)merge_adapters(checkpoint, "run.h5"); });
  };
  EXPECT_EQ(
      error(trained_with("heads: {type: mola, linears: [attention.q]}", "balance: {type: none}\n")),
      "run.h5: adapter heads.q of layers.0.attention.w_q is no one matrix: each token weighs its "
      "4 experts by a router of its own; allowed adapters that are the same for every token");
  EXPECT_THAT(error(trained_with("heads: {type: mora, linears: [attention.q]}")),
              HasSubstr("its ranks score themselves on each token"));
  SingleRank communicator;
  sluice::Run dense(testing::tiny_dense_recipe(), communicator);
  EXPECT_THAT(error(dense.checkpoint(std::nullopt)), HasSubstr("has no adapters"));
}

}  // namespace
}  // namespace sluice
