#include <set>

#include "tests/layers/routers/routed.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::experts_of;
using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;
using testing_support::zero_grads;

class PlainBalancer final : public Balancer {
 public:
  [[nodiscard]] BalancerTraits traits() const override { return {}; }
};

/// Sends every token to one expert with weight 1.
class OneExpert final : public RouteSource {
 public:
  explicit OneExpert(int32_t expert) : expert_(expert) {}
  [[nodiscard]] bool choose(const RouteRequest& request, Selection& selection) override {
    selection.tokens = request.layout.tokens();
    selection.experts = request.experts;
    selection.top_k = 1;
    selection.expert.assign(static_cast<size_t>(selection.tokens), expert_);
    selection.fixed_weights.assign(static_cast<size_t>(selection.tokens), 1.0F);
    return true;
  }

 private:
  int32_t expert_;
};

class Thor : public testing::RouterFixture {
 protected:
  std::vector<int32_t> experts(int64_t tokens, const testing::PassOptions& options) {
    return route(Tensor::zeros(pool_, {tokens, width_}, DType::f64), 1, options).selection.expert;
  }
};

TEST_F(Thor, SendsTheWholeBatchToOneExpertPerStep) {
  make("thor", {}, {.experts = 4, .top_k = 1});
  std::vector<int> draws(4, 0);
  for (int64_t step = 0; step < 2000; ++step) {
    const auto chosen = experts(3, {.training = true, .progress = {.step = step}, .seed = 1});
    EXPECT_EQ(chosen, std::vector<int32_t>(3, chosen[0]));
    ++draws[static_cast<size_t>(chosen[0])];
  }
  for (const int count : draws) EXPECT_NEAR(count, 500, 100);  // five standard deviations
}

TEST_F(Thor, DrawsByLayerAndSeed) {
  const auto draws = [&](int64_t layer, uint64_t seed) {
    make("thor", {}, {.experts = 4, .top_k = 1, .layer = layer});
    std::vector<int32_t> result;
    for (int64_t step = 0; step < 50; ++step) {
      result.push_back(experts(1, {.training = true, .progress = {.step = step}, .seed = seed})[0]);
    }
    return result;
  };
  EXPECT_EQ(draws(0, 1), draws(0, 1));
  EXPECT_NE(draws(0, 1), draws(1, 1));
  EXPECT_NE(draws(0, 1), draws(0, 2));
}

TEST_F(Thor, EvaluationDrawsPerTokenOrPerSequence) {
  make("thor", {}, {.experts = 4, .top_k = 1});
  const auto per_token = experts(64, {});
  EXPECT_EQ(std::set<int32_t>(per_token.begin(), per_token.end()).size(), 4U);
  EXPECT_EQ(experts(64, {}), per_token);
  make("thor", {{"evaluation", "sequence"}}, {.experts = 4, .top_k = 1});
  const auto per_sequence = experts(64, {});
  EXPECT_EQ(per_sequence, std::vector<int32_t>(64, per_sequence[0]));
}

TEST_F(Thor, AveragesAllExpertsInEvaluationOnly) {
  make("thor", {{"evaluation", "average"}}, {.experts = 4, .top_k = 1});
  const auto evaluated = route(random_rows(3, 4), 1);
  EXPECT_EQ(evaluated.selection.top_k, 4);
  EXPECT_EQ(evaluated.selection.expert, (std::vector<int32_t>{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}));
  EXPECT_EQ(evaluated.selection.load, (std::vector<int64_t>(4, 3)));
  EXPECT_EQ(evaluated.weights, std::vector<double>(12, 0.25));
  const testing::PassOptions training = {.training = true, .progress = {.step = 7}, .seed = 1};
  const auto averaging = route(random_rows(3, 4), 1, training);
  EXPECT_EQ(averaging.selection.top_k, 1);
  make("thor", {}, {.experts = 4, .top_k = 1});
  EXPECT_EQ(averaging.selection, route(random_rows(3, 4), 1, training).selection);
}

TEST_F(Thor, AveragingIsTheMeanOfTheExpertsAlone) {
  const Tensor x = SampleFactory(pool_, DType::f64, 3).uniform({5, 32}, -1.0, 1.0);
  const auto outputs = [&](const char* evaluation, RouteSource* source) {
    ModelConfig config = tiny_config("E", "f64");
    experts_of(config).top_k = 1.0;
    auto router = router_registry().at("thor").make_config();
    testing::set_fields(*router, {{"evaluation", evaluation}});
    experts_of(config).router = {"thor", std::shared_ptr<Configurable>(std::move(router))};
    const auto layer = moe_feed_forward.make(Builder(pool_, DType::f64, 1, init_, 1), config,
                                             experts_of(config), {.index = 0, .routed_layer = 0});
    std::vector<std::unique_ptr<Balancer>> balancers;
    balancers.push_back(std::make_unique<PlainBalancer>());
    RoutingSession session(std::move(balancers));
    session.begin_evaluation();
    const RouteSourceScope scope(session, source);
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    const SequenceLayout layout = SequenceLayout::single(pool_, 5);
    ForwardContext context{tape, layout};
    context.routing = &session;
    BlockState state;
    return testing::numbers(layer->forward(context, x, state));
  };
  std::vector<double> mean(5 * 32, 0.0);
  for (const int32_t expert : {0, 1, 2, 3}) {
    OneExpert alone(expert);
    const auto y = outputs("token", &alone);
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += y[i] / 4.0;
  }
  const auto averaged = outputs("average", nullptr);
  ASSERT_EQ(averaged.size(), mean.size());
  for (size_t i = 0; i < mean.size(); ++i) EXPECT_NEAR(averaged[i], mean[i], 1e-14);
  EXPECT_NE(averaged, outputs("token", nullptr));
}

TEST_F(Thor, WeighsByOneAndHasNoGradient) {
  make("thor", {}, {.experts = 4, .top_k = 1});
  EXPECT_TRUE(router_->parameters().empty());
  const Tensor x = random_rows(5, 4);
  EXPECT_EQ(route(x, 1).weights, std::vector<double>(5, 1.0));
  for (const double grad : gradient(x, 1, std::vector<double>(5, 1.0))) EXPECT_EQ(grad, 0.0);
}

TEST_F(Thor, TrainsTheDrawnExpertOnly) {
  ModelConfig config = tiny_config("AE", "f64");
  experts_of(config).top_k = 1.0;
  experts_of(config).router = {
      "thor", std::shared_ptr<Configurable>(router_registry().at("thor").make_config())};
  const Model model(pool_, config, 1);
  zero_grads(model, pool_);
  const TinyBatch batch = tiny_batch(pool_, {{9, 14}, {23}});
  Tape tape(pool_);
  RoutingSession session = plain_session(model);
  const ForwardContext context = training_context(tape, batch, session);
  tape.backward(model.loss(context, batch.tokens, batch.targets).total);
  for (Parameter* p : model.parameters()) {
    if (p->name != "layers.1.experts.w_up") continue;
    p->materialise_grad();
    const auto grad = testing::numbers(p->grad);
    int trained = 0;
    for (size_t e = 0; e < 4; ++e) {
      const auto of_expert = std::span(grad).subspan(e * 24 * 32, 24 * 32);
      trained += std::ranges::any_of(of_expert, [](double g) { return g != 0.0; }) ? 1 : 0;
    }
    EXPECT_EQ(trained, 1);
  }
}

TEST_F(Thor, RefusesMoreThanOneExpert) {
  const auto config = router_registry().at("thor").make_config();
  const auto& router = dynamic_cast<const RouterConfig&>(*config);
  EXPECT_EQ(router.check_against(4, 1), "");
  EXPECT_EQ(router.check_against(4, 2), "top_k: found 2, allowed 1 (router thor draws one expert)");
}

}  // namespace
}  // namespace sluice
