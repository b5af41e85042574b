#include "train/frozen_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "tests/support/tiny_run.h"

namespace sluice {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::state_of;
using testing::tiny_recipe;

/// The bytes of slice `expert` of an array.
std::vector<std::byte> slice(const StateArray& array, int64_t expert) {
  const auto size = std::ssize(array.bytes) / array.dims[0];
  return {array.bytes.begin() + expert * size, array.bytes.begin() + (expert + 1) * size};
}

TEST(FrozenExperts, StayBitForBitWhileTheOthersLearn) {
  const Recipe recipe =
      tiny_recipe("train: {freeze_experts: [0, 3]}\noptim: {type: adamw, weight_decay: 0.1}");
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  const StateDict before = state_of(run);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(run.step().applied);
  const StateDict after = state_of(run);
  for (const char* name : {"experts.w_gate", "experts.w_up", "experts.w_down", "router.weight"}) {
    const std::string path = fmt::format("model/layers.1.{}", name);
    for (const int64_t expert : {0, 1, 2, 3}) {
      const bool frozen = expert == 0 || expert == 3;
      EXPECT_EQ(slice(after.at(path), expert) == slice(before.at(path), expert), frozen)
          << path << ", expert " << expert;
    }
  }
  EXPECT_NE(after.at("model/layers.0.attention.w_q"), before.at("model/layers.0.attention.w_q"));
}

TEST(FrozenExperts, DoNotCountInTheGradientNorm) {
  const auto norm = [](const std::string& frozen) {
    SingleRank communicator;
    sluice::Run run(tiny_recipe(fmt::format(
                        "train: {{freeze: [\"embedding*\", \"layers.*.attention.*\", \"*norm*\"], "
                        "freeze_experts: [{}]}}",
                        frozen)),
                    communicator);
    return run.step().grad_norm;
  };
  EXPECT_EQ(norm("0, 1, 2, 3"), 0.0);
  EXPECT_LT(norm("0, 1"), norm(""));
  EXPECT_GT(norm("0, 1"), 0.0);
}

TEST(FrozenExperts, MustBeThere) {
  const auto refusal = [](const Recipe& recipe) {
    return error_of<ConfigError>([&] {
      SingleRank communicator;
      sluice::Run run(recipe, communicator);
    });
  };
  EXPECT_THAT(refusal(tiny_recipe("train: {freeze_experts: [4]}")),
              HasSubstr("train.freeze_experts: found 4, allowed 0 to 3"));
  EXPECT_THAT(refusal(testing::tiny_dense_recipe("train: {freeze_experts: [0]}")),
              HasSubstr("has no experts"));
}

}  // namespace
}  // namespace sluice
