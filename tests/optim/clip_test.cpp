#include "optim/clip.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/parallel.h"
#include "tests/optim/support.h"

namespace sluice {
namespace {

using testing::make_parameter;
using testing::set_grad;

/// Two ranks with the same local values: every sum doubles.
class TwoEqualRanks final : public Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 2; }
  void sum(std::span<double> values) override {
    for (double& value : values) value *= 2.0;
  }
  void sum(std::span<float> values) override {
    for (float& value : values) value *= 2.0f;
  }
  void sum(std::span<int64_t> values) override {
    for (int64_t& value : values) value *= 2;
  }
  void barrier() override {}
};

class GradientNormTest : public ::testing::Test {
 protected:
  Parameter& add(const std::string& name, const std::vector<float>& grad) {
    owned_.push_back(make_parameter<float>(pool_, name, ParameterKind::matrix, grad));
    set_grad(*owned_.back(), grad);
    parameters_.push_back(owned_.back().get());
    return *owned_.back();
  }
  Pool pool_;
  SingleRank one_rank_;
  std::vector<std::unique_ptr<Parameter>> owned_;
  std::vector<Parameter*> parameters_;
};

TEST_F(GradientNormTest, SpansAllParameters) {
  add("a", {3.0f});
  add("b", {0.0f, 4.0f});
  const GradientNorm norm = gradient_norm(parameters_, one_rank_);
  EXPECT_DOUBLE_EQ(norm.value, 5.0);
  EXPECT_EQ(norm.first_non_finite, nullptr);
}

TEST_F(GradientNormTest, DoesNotOverflowWhereTheSquaresWouldInSinglePrecision) {
  add("a", {3.0e30f, 4.0e30f});
  const double expected = std::hypot(double{3.0e30f}, double{4.0e30f});
  EXPECT_DOUBLE_EQ(gradient_norm(parameters_, one_rank_).value, expected);
}

TEST_F(GradientNormTest, IgnoresWhatZeroAndFrozenGradientsHold) {
  add("a", {3.0f});
  add("untouched", {7.0f}).grad_is_zero = true;
  add("frozen", {7.0f}).trainable = false;
  EXPECT_DOUBLE_EQ(gradient_norm(parameters_, one_rank_).value, 3.0);
}

TEST_F(GradientNormTest, NamesTheFirstNonFiniteParameter) {
  add("fine", {1.0f});
  Parameter& first = add("first", {1.0f, std::nanf("")});
  add("second", {INFINITY});
  const GradientNorm norm = gradient_norm(parameters_, one_rank_);
  EXPECT_FALSE(std::isfinite(norm.value));
  EXPECT_EQ(norm.first_non_finite, &first);
}

TEST_F(GradientNormTest, CountsReplicasOnceAndShardsOfEveryRank) {
  add("replicated", {3.0f});
  add("shard", {4.0f}).placement = Placement::sharded_by_expert;
  TwoEqualRanks ranks;
  EXPECT_DOUBLE_EQ(gradient_norm(parameters_, ranks).value, std::sqrt(9.0 + 2 * 16.0));
}

TEST_F(GradientNormTest, IsTheSameBitsForAnyNumberOfThreads) {
  std::vector<float> values(300'001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(0.37f * static_cast<float>(i));
  add("a", values);
  set_num_threads(1);
  const double expected = gradient_norm(parameters_, one_rank_).value;
  for (const int threads : {2, 3, 8}) {
    set_num_threads(threads);
    EXPECT_EQ(gradient_norm(parameters_, one_rank_).value, expected) << threads << " threads";
  }
  set_num_threads(1);
}

TEST(ClipScale, ScalesTheExampleOfThePaperPage) {
  // g = (3, 4), largest norm 1 -> (0.59999988, 0.79999984).
  const double scale = clip_scale(5.0, 1.0);
  EXPECT_NEAR(3.0 * scale, 0.59999988, 5e-9);
  EXPECT_NEAR(4.0 * scale, 0.79999984, 5e-9);
}

TEST(ClipScale, LeavesShortGradientsAlone) {
  EXPECT_EQ(clip_scale(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_scale(0.0, 1.0), 1.0);
  EXPECT_EQ(clip_scale(1e9, std::nullopt), 1.0);
}

}  // namespace
}  // namespace sluice
