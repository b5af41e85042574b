#include "train/transforms/extract_adapters.h"

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

Checkpoint trained_experts(const std::string& more = "") {
  SingleRank communicator;
  sluice::Run run(testing::tiny_recipe("model: {dtype: f64, init: {std: 0.2}" + more + "}"),
                  communicator);
  for (int step = 0; step < 3; ++step) (void)run.step();
  return run.checkpoint(std::nullopt);
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

TEST(ExtractAdapters, OfFullRankIsTheSameModel) {
  const Checkpoint before = trained_experts();
  // 16 wide, experts of 12.
  const ExtractedModel extracted = extract_adapters(before, "run.h5", {.ranks = {12}});
  EXPECT_NEAR(extracted.relative_error, 0.0, 1e-12);
  EXPECT_LT(distance(logits_of(extracted.checkpoint), logits_of(before)), 1e-9);
}

TEST(ExtractAdapters, OfAnyPublicExpertAndRanksOfTheirOwn) {
  const Checkpoint before = trained_experts();
  for (const ExtractOptions& options :
       {ExtractOptions{{12, 12, 0, 12}, 2}, ExtractOptions{{12, 12, 12, 12}, 1}}) {
    const ExtractedModel extracted = extract_adapters(before, "run.h5", options);
    EXPECT_LT(distance(logits_of(extracted.checkpoint), logits_of(before)), 1e-9);
  }
}

TEST(ExtractAdapters, ComesNearerWithHigherRanks) {
  const Checkpoint before = trained_experts();
  const std::vector<double> logits = logits_of(before);
  double error = 1.0;
  for (const int64_t rank : {1, 4, 8, 11}) {
    const ExtractedModel extracted = extract_adapters(before, "run.h5", {.ranks = {rank}});
    EXPECT_LT(extracted.relative_error, error);
    error = extracted.relative_error;
    // Three experts beside the public one, three matrices of r (16 + 12), in two layers.
    const int64_t of_experts = 2 * 4 * 3 * 16 * 12;
    const int64_t of_factors = 2 * (3 * 16 * 12 + 3 * 3 * rank * (16 + 12));
    EXPECT_EQ(extracted.parameters_after, extracted.parameters_before - of_experts + of_factors);
    EXPECT_GT(distance(logits_of(extracted.checkpoint), logits), 0.0);
  }
}

TEST(ExtractAdapters, SaysWhatItCannotTake) {
  const auto error = [](const Checkpoint& checkpoint, const ExtractOptions& options) {
    return error_of<ConfigError>([&] { (void)extract_adapters(checkpoint, "run.h5", options); });
  };
  const Checkpoint experts = trained_experts();
  EXPECT_THAT(error(experts, {.ranks = {1, 2}}), HasSubstr("ranks: found 2 of them, allowed one"));
  EXPECT_THAT(error(experts, {.ranks = {13}}), HasSubstr("ranks: found 13, allowed 0 to 12"));
  EXPECT_THAT(error(experts, {.ranks = {2}, .public_expert = 4}), HasSubstr("allowed 0 to 3"));
  EXPECT_THAT(error(experts, {.ranks = {0}}), HasSubstr("no rank above 0"));
  EXPECT_THAT(error(trained_experts(", experts: {form: {type: mlp}}"), {.ranks = {2}}),
              HasSubstr("found experts of form mlp"));
  SingleRank communicator;
  sluice::Run dense(testing::tiny_dense_recipe(), communicator);
  EXPECT_THAT(error(dense.checkpoint(std::nullopt), {.ranks = {2}}),
              HasSubstr("no layer of experts"));
}

}  // namespace
}  // namespace sluice
