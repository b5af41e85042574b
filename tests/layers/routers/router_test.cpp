// Worked numbers of the routers, on fixture F1 of the method notes.

#include "layers/router.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "layers/routers/choose.h"
#include "layers/routers/node_limited.h"
#include "layers/routers/top_k.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::element;

constexpr double kPrinted = 6e-7;  // the page prints six digits

class RouterTest : public testing::Test {
 protected:
  RouterTest() : layout_(SequenceLayout::single(pool_, 4)) {}

  /// A router whose weight is the identity: the input is the logits.
  std::unique_ptr<Router> make(const std::string& type,
                               const std::function<void(Configurable&)>& edit,
                               int64_t experts = 4) {
    const RouterEntry& entry = router_registry().at(type);
    auto config = entry.make_config();
    edit(*config);
    const Builder b(pool_, DType::f64, 1, init_, 1);
    auto router = entry.make(b, {experts, experts, 0}, *config);
    Tensor& weight = router->parameters()[0]->value;
    weight.fill_zero();
    for (int64_t e = 0; e < experts; ++e) weight.data<double>()[e * experts + e] = 1.0;
    return router;
  }

  std::vector<double> weights_of(const Router& router, const Tensor& x, int64_t k,
                                 std::span<const double> shift = {}) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    ForwardContext context{tape, layout_};
    const RouterScores scores = router.score(context, x);
    router.choose(context, scores, shift, k, selection_);
    const Tensor weights = router.combine_weights(context, scores, selection_);
    const auto values = weights.span<double>();
    return {values.begin(), values.end()};
  }

  Tensor f1() {
    return Tensor::of<double>(
        pool_, {4, 4},
        {2.0, 1.0, 0.0, -1.0, 1.0, 2.0, 0.5, 0.0, 3.0, 0.0, 1.0, -1.0, 0.5, 0.0, 2.0, 1.0});
  }

  Pool pool_;
  InitConfig init_;
  SequenceLayout layout_;
  Selection selection_;
};

void use_weights(Configurable& config, const std::string& scores, const std::string& weights) {
  auto& top_k = dynamic_cast<TopKRouterConfig&>(config);
  top_k.scores = scores;
  top_k.weights = weights;
}

TEST_F(RouterTest, SoftmaxSelectsTheFixturesExperts) {
  const auto router = make("top_k", [](Configurable& c) { use_weights(c, "softmax", "as_is"); });
  const auto weights = weights_of(*router, f1(), 2);
  const std::vector<int32_t> expected = {0, 1, 1, 0, 0, 2, 2, 3};
  EXPECT_EQ(selection_.expert, expected);
  EXPECT_NEAR(weights[0], 0.643914, kPrinted);
  EXPECT_NEAR(weights[1], 0.236883, kPrinted);
}

TEST_F(RouterTest, RenormalisedEqualsSoftmaxAfterSelection) {
  const auto renorm =
      make("top_k", [](Configurable& c) { use_weights(c, "softmax", "renormalise"); });
  const auto after =
      make("top_k", [](Configurable& c) { use_weights(c, "softmax", "softmax_after"); });
  const auto a = weights_of(*renorm, f1(), 2);
  const auto b = weights_of(*after, f1(), 2);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-15);
  EXPECT_NEAR(a[0], 0.731059, kPrinted);
  EXPECT_NEAR(a[4], 0.880797, kPrinted);
  EXPECT_NEAR(a[5], 0.119203, kPrinted);
}

TEST_F(RouterTest, SigmoidWeightsAreNormalisedAndScaled) {
  const auto router = make("top_k", [](Configurable& c) {
    use_weights(c, "sigmoid", "renormalise");
    dynamic_cast<TopKRouterConfig&>(c).scale = 2.5;
  });
  const auto weights = weights_of(*router, f1(), 2);
  EXPECT_NEAR(weights[0], 1.366123, 2 * kPrinted);
  EXPECT_NEAR(weights[1], 1.133877, 2 * kPrinted);
  for (int token = 0; token < 4; ++token)
    EXPECT_NEAR(weights[2 * token] + weights[2 * token + 1], 2.5, 1e-12);
}

TEST_F(RouterTest, ShiftMovesTheChoiceButNeverTheWeights) {
  const auto router =
      make("top_k", [](Configurable& c) { use_weights(c, "sigmoid", "renormalise"); });
  const std::vector<double> towards_three = {0.0, 0.0, 0.0, 100.0};
  const auto weights = weights_of(*router, f1(), 2, towards_three);
  for (size_t token = 0; token < 4; ++token) EXPECT_EQ(selection_.expert[2 * token], 3);
  // Token 0: experts 3 and 0 with sigmoid scores .268941 and .880797.
  EXPECT_NEAR(weights[0], 0.268941 / (0.268941 + 0.880797), 2 * kPrinted);
  const std::vector<double> everywhere = {7.0, 7.0, 7.0, 7.0};
  const auto shifted = weights_of(*router, f1(), 2, everywhere);
  const auto plain = weights_of(*router, f1(), 2);
  EXPECT_EQ(shifted, plain);
}

TEST_F(RouterTest, NodeLimitedKeepsTheBestGroups) {
  // The page's example: scores (.9 .1 | .6 .55 | .5 .45 | .8 .05), two groups kept, top-3; V2 takes
  // the largest score of a group, V3 the sum of the two largest. Logits whose softmax has these
  // ratios are their logarithms.
  const std::vector<double> scores = {.9, .1, .6, .55, .5, .45, .8, .05};
  layout_ = SequenceLayout::single(pool_, 1);
  const auto config = [](const char* group_score) {
    return [group_score](Configurable& c) {
      auto& node_limited = dynamic_cast<NodeLimitedConfig&>(c);
      node_limited.n_group = 4;
      node_limited.topk_group = 2;
      node_limited.group_score = group_score;
    };
  };
  std::vector<double> logits;
  for (const double score : scores) logits.push_back(std::log(score));
  const Tensor x = Tensor::of<double>(pool_, {1, 8}, logits);

  const auto v2 = make("node_limited", config("max"), 8);
  const auto v2_weights = weights_of(*v2, x, 3);
  EXPECT_EQ(selection_.expert, (std::vector<int32_t>{0, 6, 1}));
  EXPECT_NEAR(v2_weights[0], .5, kPrinted);
  EXPECT_NEAR(v2_weights[1], .444444, kPrinted);
  EXPECT_NEAR(v2_weights[2], .055556, kPrinted);

  const auto v3 = make("node_limited", config("top2_sum"), 8);
  const auto v3_weights = weights_of(*v3, x, 3);
  EXPECT_EQ(selection_.expert, (std::vector<int32_t>{0, 2, 3}));
  EXPECT_NEAR(v3_weights[0], .439024, kPrinted);
  EXPECT_NEAR(v3_weights[1], .292683, kPrinted);
  EXPECT_NEAR(v3_weights[2], .268293, kPrinted);
}

TEST_F(RouterTest, TiesGoToTheLowerExpertAndNaNComesLast) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Tensor scores =
      Tensor::of<double>(pool_, {2, 4}, {1.0, 2.0, 2.0, 1.0, nan, 0.5, nan, 0.25});
  choose_top_k(scores, {}, 3, selection_);
  EXPECT_EQ(selection_.expert, (std::vector<int32_t>{1, 2, 0, 1, 3, 0}));
}

TEST_F(RouterTest, ChoosesAllExpertsWhenKIsE) {
  const Tensor scores = Tensor::of<double>(pool_, {1, 3}, {0.1, 0.3, 0.2});
  choose_top_k(scores, {}, 3, selection_);
  EXPECT_EQ(selection_.expert, (std::vector<int32_t>{1, 2, 0}));
}

}  // namespace
}  // namespace sluice
