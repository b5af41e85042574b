#include "train/transforms/expert_neurons.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_trained.h"
#include "train/transforms/recombination.h"

namespace sluice {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::tiny_checkpoint;

constexpr int64_t kWidth = 12;
constexpr int64_t kHidden = 5;
constexpr size_t kSize = 3 * kHidden;

ExpertNeurons random_experts(int64_t count, uint64_t seed) {
  ExpertNeurons experts = ExpertNeurons{0, kWidth, kHidden, {}}.like(count, kWidth);
  for (size_t i = 0; i < experts.values.size(); ++i)
    experts.values[i] = normal({.seed = seed}, 0, i);
  return experts;
}

/// y of one expert for one token.
std::vector<double> output_of(std::span<const double> expert, std::span<const double> x) {
  std::vector<double> y(kHidden);
  for (size_t i = 0; i < kWidth; ++i) {
    const auto neuron = expert.subspan(i * kSize, kSize);
    const double gate = dot(neuron.first(kHidden), x);
    const double h = gate / (1.0 + std::exp(-gate)) * dot(neuron.subspan(kHidden, kHidden), x);
    for (size_t d = 0; d < kHidden; ++d) y[d] += h * neuron[2 * kHidden + d];
  }
  return y;
}

double largest_difference(std::span<const double> a, std::span<const double> b) {
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

/// Expert `to` becomes expert `from` with its neurons in another order: neuron i is neuron 5 i + 2.
std::vector<int32_t> permute(ExpertNeurons& experts, int64_t from, int64_t to) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < kWidth; ++i) {
    const size_t source = (5 * i + 2) % kWidth;
    order.push_back(static_cast<int32_t>(source));
    std::ranges::copy(experts.expert(from).subspan(source * kSize, kSize),
                      experts.expert(to).subspan(i * kSize).begin());
  }
  return order;
}

TEST(ExpertNeurons, AreReadAndWrittenBackToTheBit) {
  for (const char* dtype : {"f32", "f64"}) {
    const StateDict state = tiny_checkpoint(fmt::format("model: {{dtype: {}}}", dtype)).state;
    const ExpertNeurons experts = read_neurons(state, "layers.1");
    EXPECT_EQ(experts.experts, 4);
    EXPECT_EQ(experts.width, 12);
    EXPECT_EQ(experts.hidden, 16);
    StateDict copy = state;
    for (const char* name : {"w_gate", "w_up", "w_down"}) {
      auto& bytes = copy.at(fmt::format("model/layers.1.experts.{}", name)).bytes;
      std::ranges::fill(bytes, std::byte{0});
    }
    EXPECT_NE(copy, state);
    write_neurons(experts, "layers.1", copy);
    EXPECT_EQ(copy, state);
  }
}

TEST(ExpertNeurons, HoldTheColumnOfWDown) {
  const StateDict state = tiny_checkpoint("model: {dtype: f64}").state;
  const ExpertNeurons experts = read_neurons(state, "layers.1");
  const auto down = state.at("model/layers.1.experts.w_down").values<double>();
  // Element d of neuron 7 of expert 2.
  for (size_t d = 0; d < 16; ++d) {
    EXPECT_EQ(experts.expert(2)[7 * 48 + 32 + d], down[(2 * 16 + d) * 12 + 7]);
  }
}

TEST(ExpertNeurons, AreThoseOfSwigluOnly) {
  const StateDict state = tiny_checkpoint("model: {experts: {form: {type: mlp}}}").state;
  EXPECT_THAT(error_of<CheckpointError>([&] { (void)read_neurons(state, "layers.1"); }),
              HasSubstr("w_gate is no stack of matrices of SwiGLU experts"));
}

TEST(Alignment, RecoversAPermutationExactlyAndKeepsTheFunction) {
  ExpertNeurons experts = random_experts(2, 1);
  const std::vector<int32_t> permuted = permute(experts, 0, 1);
  const std::vector<int32_t> order = align(experts.expert(0), experts.expert(1), kSize);
  for (size_t i = 0; i < kWidth; ++i) {
    EXPECT_EQ(permuted[static_cast<size_t>(order[i])], static_cast<int32_t>(i));
  }
  const std::vector<double> x = {0.3, -1.0, 0.7, 2.0, -0.4};
  EXPECT_LE(largest_difference(output_of(experts.expert(0), x), output_of(experts.expert(1), x)),
            1e-13);
}

TEST(MergedExperts, OfOneKindAreThatKind) {
  ExpertNeurons experts = random_experts(3, 2);
  permute(experts, 0, 1);
  permute(experts, 1, 2);
  std::vector<double> merged(experts.expert_size());
  merge_experts(experts, std::vector<int32_t>{0, 1, 2}, std::vector<double>{3.0, 1.0, 2.0}, true,
                merged);
  EXPECT_LE(largest_difference(merged, experts.expert(0)), 1e-14);
  merge_experts(experts, std::vector<int32_t>{1}, std::vector<double>{0.0}, true, merged);
  EXPECT_EQ(largest_difference(merged, experts.expert(1)), 0.0);
}

TEST(MergedExperts, WeighTheirMembers) {
  const ExpertNeurons experts = random_experts(2, 3);
  std::vector<double> merged(experts.expert_size());
  const std::vector<int32_t> both = {0, 1};
  merge_experts(experts, both, std::vector<double>{3.0, 1.0}, false, merged);
  EXPECT_NEAR(merged[4], 0.75 * experts.expert(0)[4] + 0.25 * experts.expert(1)[4], 1e-15);
  // Nobody chose either.
  merge_experts(experts, both, std::vector<double>{0.0, 0.0}, false, merged);
  EXPECT_NEAR(merged[4], 0.5 * (experts.expert(0)[4] + experts.expert(1)[4]), 1e-15);
}

// Worked on the method page: .029 aligned, 1.198 not.
TEST(MergedExperts, AreMuchCloserWhenAligned) {
  ExpertNeurons experts = random_experts(2, 4);
  permute(experts, 0, 1);
  for (size_t i = 0; i < experts.expert_size(); ++i) {
    experts.expert(1)[i] += 0.02 * normal({.seed = 9}, 0, i);
  }
  const std::vector<double> x = {0.3, -1.0, 0.7, 2.0, -0.4};
  const std::vector<double> wanted = output_of(experts.expert(0), x);
  const auto error_when = [&](bool aligned) {
    std::vector<double> merged(experts.expert_size());
    merge_experts(experts, std::vector<int32_t>{0, 1}, std::vector<double>{1.0, 1.0}, aligned,
                  merged);
    return largest_difference(output_of(merged, x), wanted);
  };
  EXPECT_GT(error_when(false), 10 * error_when(true));
}

TEST(Recombination, OfNothingChangesNothing) {
  const ExpertNeurons experts = random_experts(3, 5);
  const Recombination made = recombine_neurons(experts, std::vector<int32_t>{0, 1, 2},
                                               std::vector<double>{1, 2, 3}, 0.0, 10);
  EXPECT_EQ(made.experts.values, experts.values);
  EXPECT_EQ(made.assigned + made.discarded, 0);
}

TEST(Recombination, OfADuplicateChangesNothing) {
  ExpertNeurons experts = random_experts(3, 6);
  permute(experts, 0, 2);
  const Recombination made = recombine_neurons(experts, std::vector<int32_t>{0, 1},
                                               std::vector<double>{4, 2, 3}, 0.99, 10);
  EXPECT_EQ(made.assigned, kWidth);
  EXPECT_LE(largest_difference(made.experts.expert(0), experts.expert(0)), 1e-14);
  EXPECT_EQ(largest_difference(made.experts.expert(1), experts.expert(1)), 0.0);
}

TEST(Recombination, AccountsForEveryNeuron) {
  const ExpertNeurons experts = random_experts(5, 7);
  const std::vector<int32_t> kept = {1, 3};
  const std::vector<double> usage = {1, 5, 2, 4, 0};
  int64_t before = 3 * kWidth;
  for (const double threshold : {-1.0, 0.2, 0.5, 1.0}) {
    const Recombination made = recombine_neurons(experts, kept, usage, threshold, 10);
    EXPECT_EQ(made.assigned + made.discarded, 3 * kWidth);
    EXPECT_LE(made.assigned, before);
    EXPECT_EQ(made.experts.experts, 2);
    EXPECT_EQ(made.experts.width, kWidth);
    before = made.assigned;
  }
  EXPECT_EQ(before, 0) << "nothing is as like another as itself";
}

TEST(Recombination, TakesTheWeightedMeanOfAlikeNeurons) {
  // Two experts of one neuron each, in the same direction.
  ExpertNeurons experts = ExpertNeurons{0, 1, 1, {}}.like(2, 1);
  experts.values = {1.0, 2.0, 3.0, 2.0, 4.0, 6.0};
  const Recombination made =
      recombine_neurons(experts, std::vector<int32_t>{0}, std::vector<double>{3.0, 1.0}, 0.5, 10);
  EXPECT_THAT(made.experts.values, ::testing::ElementsAre(1.25, 2.5, 3.75));
}

}  // namespace
}  // namespace sluice
