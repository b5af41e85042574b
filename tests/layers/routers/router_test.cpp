// Worked numbers of the routers, on fixture F1 of the method notes.

#include "layers/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/core/gradcheck.h"
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

  /// A router with its initial weights, for inputs as wide as it has experts.
  std::unique_ptr<Router> make_initial(const std::string& type,
                                       const std::function<void(Configurable&)>& edit,
                                       int64_t experts = 4) {
    const RouterEntry& entry = router_registry().at(type);
    auto config = entry.make_config();
    edit(*config);
    const Builder b(pool_, DType::f64, 1, init_, 1);
    return entry.make(b, {experts, experts, 0}, *config);
  }

  /// A router whose weight is the identity: the input is the logits.
  std::unique_ptr<Router> make(const std::string& type,
                               const std::function<void(Configurable&)>& edit,
                               int64_t experts = 4) {
    auto router = make_initial(type, edit, experts);
    set_diagonal(*router->parameters()[0], 1.0);
    return router;
  }

  static void set_diagonal(Parameter& weight, double value) {
    weight.value.fill_zero();
    const int64_t experts = weight.value.dim(0);
    for (int64_t e = 0; e < experts; ++e) weight.value.data<double>()[e * experts + e] = value;
  }

  /// The logits of x under layout_.
  std::vector<double> logits_of(const Router& router, const Tensor& x, bool training,
                                int64_t step = 0) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    ForwardContext context{tape, layout_};
    context.training = training;
    context.progress.step = step;
    const RouterScores scores = router.score(context, x);
    const auto values = scores.logits.span<double>();
    return {values.begin(), values.end()};
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

// --- randomness in training ----------------------------------------------------------------------

void keep_defaults(Configurable& /*config*/) {}

void use_jitter(Configurable& config) { dynamic_cast<TopKRouterConfig&>(config).jitter = 0.25; }

TEST_F(RouterTest, JitterMultipliesEveryElementWithinItsBounds) {
  const auto router = make("top_k", use_jitter);
  const auto factors =
      logits_of(*router, Tensor::of<double>(pool_, {4, 4}, std::vector<double>(16, 1.0)), true);
  for (const double factor : factors) EXPECT_NEAR(factor, 1.0, 0.25);
  EXPECT_LT(*std::ranges::min_element(factors), 0.9);
  EXPECT_GT(*std::ranges::max_element(factors), 1.1);
  const auto logits = logits_of(*router, f1(), true);
  for (int64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(logits[static_cast<size_t>(i)], factors[static_cast<size_t>(i)] * element(f1(), i));
  }
}

TEST_F(RouterTest, NoisyTopKStartsWithNothingButTheNoiseOfThePaper) {
  constexpr int64_t kTokens = 1024;
  constexpr int64_t kNumbers = 4 * kTokens;
  layout_ = SequenceLayout::single(pool_, kTokens);
  const auto router = make_initial("noisy_top_k", keep_defaults);
  const Tensor x = SampleFactory(pool_, DType::f64).uniform({kTokens, 4});
  EXPECT_THAT(logits_of(*router, x, false), testing::Each(0.0));
  // Zero weights: softplus(0) + 0.01 = 0.703147 is the standard deviation of every logit. Bounds of
  // five standard errors.
  const auto logits = logits_of(*router, x, true);
  const double mean = std::reduce(logits.begin(), logits.end()) / kNumbers / 0.703147;
  const double square = std::inner_product(logits.begin(), logits.end(), logits.begin(), 0.0) /
                        kNumbers / std::pow(0.703147, 2);
  EXPECT_NEAR(mean, 0.0, 5.0 / std::sqrt(kNumbers));
  EXPECT_NEAR(square, 1.0, 5.0 * std::sqrt(2.0 / kNumbers));
}

TEST_F(RouterTest, NoisyTopKScalesItsNoiseByTheSoftplusOfItsInput) {
  const auto router = make("noisy_top_k", keep_defaults);
  const auto noise =
      logits_of(*router, Tensor::of<double>(pool_, {4, 4}, std::vector<double>(16, 0.0)), true);
  set_diagonal(*router->parameters()[1], 2.0);
  const auto logits = logits_of(*router, f1(), true);
  for (size_t i = 0; i < logits.size(); ++i) {
    const double x = element(f1(), static_cast<int64_t>(i));
    const double normal = noise[i] / (std::log(2.0) + 0.01);
    EXPECT_NEAR(logits[i], x + (std::log1p(std::exp(2.0 * x)) + 0.01) * normal, 1e-13);
  }
}

TEST_F(RouterTest, NoisyTopKHasAGradientThroughTheScaleOfItsNoise) {
  const auto router = make("noisy_top_k", keep_defaults);
  set_diagonal(*router->parameters()[1], 2.0);
  for (Parameter* parameter : router->parameters()) parameter->zero_grad(pool_);
  const GradcheckReport report =
      gradcheck(pool_, {.label = "noisy_top_k",
                        .inputs = {f1()},
                        .differentiable = {true},
                        .apply = [&](Tape& tape, std::span<const Tensor> inputs) {
                          ForwardContext context{tape, layout_};
                          context.training = true;
                          return std::vector{router->score(context, inputs[0]).logits};
                        }});
  EXPECT_TRUE(report.passed) << report.message;
}

/// A router with random numbers in training.
class RandomRouter : public RouterTest, public testing::WithParamInterface<const char*> {
 protected:
  std::unique_ptr<Router> router_ =
      make(GetParam(), GetParam() == std::string_view("top_k") ? use_jitter : keep_defaults);
};

TEST_P(RandomRouter, IsItselfInEvaluation) {
  EXPECT_THAT(logits_of(*router_, f1(), false), testing::ElementsAreArray(f1().span<double>()));
}

TEST_P(RandomRouter, DrawsTheSameTwiceAndAnewInAnotherStep) {
  const auto first = logits_of(*router_, f1(), true, 3);
  EXPECT_EQ(logits_of(*router_, f1(), true, 3), first);
  const auto other = logits_of(*router_, f1(), true, 4);
  for (size_t i = 0; i < first.size(); ++i) {
    if (element(f1(), static_cast<int64_t>(i)) != 0.0) {
      EXPECT_NE(other[i], first[i]) << "logit " << i;
    }
  }
}

TEST_P(RandomRouter, DrawsTheSameHoweverTheBatchIsCut) {
  const std::vector<int64_t> offsets = {0, 3, 8, 10};
  const std::vector<uint64_t> samples = {7, 8, 12};
  const Tensor x = SampleFactory(pool_, DType::f64).uniform({10, 4});
  // The logits of sequences begin .. end - 1 as a micro-batch of their own.
  const auto logits_between = [&](int64_t begin, int64_t end) {
    layout_ = {};
    for (int64_t s = begin; s <= end; ++s) {
      layout_.sequence_offsets.push_back(offsets[static_cast<size_t>(s)] -
                                         offsets[static_cast<size_t>(begin)]);
    }
    layout_.global_samples.assign(samples.begin() + begin, samples.begin() + end);
    const auto rows =
        x.span<double>().subspan(static_cast<size_t>(4 * offsets[static_cast<size_t>(begin)]),
                                 static_cast<size_t>(4 * layout_.tokens()));
    return logits_of(
        *router_,
        Tensor::of<double>(pool_, {layout_.tokens(), 4}, std::vector(rows.begin(), rows.end())),
        true);
  };
  const auto whole = logits_between(0, 3);
  for (const int64_t cut : {1, 2}) {
    std::vector<double> parts = logits_between(0, cut);
    const std::vector<double> second = logits_between(cut, 3);
    parts.insert(parts.end(), second.begin(), second.end());
    EXPECT_EQ(parts, whole) << "cut before sequence " << cut;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryKind, RandomRouter, testing::Values("top_k", "noisy_top_k"),
                         [](const auto& router) { return std::string(router.param); });

// --- choosing ------------------------------------------------------------------------------------

TEST_F(RouterTest, NoisyTopKSaysWhatItsNoiseWas) {
  const auto router = make("noisy_top_k", [](Configurable&) {});
  Tape tape(pool_);
  const NoGrad no_grad(tape);
  ForwardContext context{.tape = tape, .layout = layout_, .training = true};
  const RouterScores noisy = router->score(context, f1());
  EXPECT_TRUE(testing_support::same_bits(noisy.clean_logits, f1()));
  for (int64_t i = 0; i < 16; ++i) {
    // softplus(0) + 0.01, from a noise weight of zeros.
    EXPECT_NEAR(element(noisy.noise_scale, i), 0.703147, kPrinted);
    EXPECT_NE(element(noisy.logits, i), element(noisy.clean_logits, i));
  }
  context.training = false;
  const RouterScores quiet = router->score(context, f1());
  EXPECT_FALSE(quiet.noise_scale.defined());
  EXPECT_TRUE(testing_support::same_bits(quiet.logits, f1()));
}

TEST_F(RouterTest, OnlyANoisyRouterSaysThatItAddsNoise) {
  for (const Choice& choice : router_choices()) {
    const auto config = choice.make_config();
    EXPECT_EQ(dynamic_cast<const RouterConfig&>(*config).adds_noise(), choice.name == "noisy_top_k")
        << choice.name;
  }
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
