// What every balancing method must do inside a model.

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>

#include "layers/router.h"
#include "tests/balance/method_variants.h"
#include "tests/balance/routed_batch.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::experts_of;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

class EveryBalancerInAModel : public ::testing::TestWithParam<testing::MethodVariant> {
 protected:
  [[nodiscard]] RoutingSession session(const Model& model) const {
    const Tagged tagged = testing::method(GetParam().type, GetParam().options);
    std::vector<std::unique_ptr<Balancer>> balancers;
    for (const int64_t experts : model.experts_per_layer()) {
      balancers.push_back(make_balancer(
          {&tagged, 1},
          {.layer = std::ssize(balancers), .experts = experts, .top_k = 2, .seed = 1}));
    }
    return RoutingSession(std::move(balancers));
  }

  /// Loss of one training step; gradients stay in the parameters.
  double train_once(const Model& model, const TinyBatch& batch, RoutingSession& routing,
                    Recompute recompute) {
    testing_support::zero_grads(model, pool_);
    Tape tape(pool_);
    const ForwardContext context =
        testing_support::training_context(tape, batch, routing, recompute);
    const Model::Loss loss = model.loss(context, batch.tokens, batch.targets);
    const double value = loss.total.item();
    tape.backward(loss.total);
    tape.reset();
    for (Parameter* parameter : model.parameters()) parameter->materialise_grad();
    return value;
  }

  Pool pool_;
};

TEST_P(EveryBalancerInAModel, IsRecomputedBitForBit) {
  ModelConfig config = tiny_config("AEAE");
  const Model model(pool_, config, 1);
  const TinyBatch batch = tiny_batch(pool_, {{40, 9}, {17, 30}});
  RoutingSession first = session(model);
  const double loss = train_once(model, batch, first, Recompute::none);
  EXPECT_TRUE(std::isfinite(loss));
  std::vector<Tensor> grads;
  for (Parameter* parameter : model.parameters()) grads.push_back(parameter->grad.clone(pool_));
  for (const Recompute recompute : {Recompute::experts, Recompute::all}) {
    RoutingSession again = session(model);
    EXPECT_EQ(train_once(model, batch, again, recompute), loss);
    for (size_t p = 0; p < grads.size(); ++p) {
      EXPECT_TRUE(same_bits(model.parameters()[p]->grad, grads[p])) << model.parameters()[p]->name;
    }
  }
}

TEST_P(EveryBalancerInAModel, WorksWithACapacity) {
  for (const std::string policy : {"position", "weight"}) {
    ModelConfig config = tiny_config("AE");
    experts_of(config).capacity_factor = 0.8;
    experts_of(config).drop_policy = policy;
    const Model model(pool_, config, 1);
    const TinyBatch batch = tiny_batch(pool_, {{40, 9}, {17, 30}});
    RoutingSession routing = session(model);
    EXPECT_TRUE(std::isfinite(train_once(model, batch, routing, Recompute::none)));
  }
}

TEST_P(EveryBalancerInAModel, KeepsToTheCapacityOfTopKExpertsPerToken) {
  ModelConfig config = tiny_config("AE");
  experts_of(config).capacity_factor = 0.25;
  const Model model(pool_, config, 1);
  TinyBatch batch = tiny_batch(pool_, {{40, 9}, {17, 30}});
  std::fill(batch.layout.counted.begin(), batch.layout.counted.end(), uint8_t{1});
  RoutingSession routing = session(model);
  (void)train_once(model, batch, routing, Recompute::none);
  SingleRank alone;
  routing.finish_loads(alone);
  const LayerLoad& load = routing.loads()[0];
  int64_t dropped = 0;  // past ceil(0.25 * 96 * 2 / 4)
  for (const int64_t count : load.counts) dropped += std::max<int64_t>(0, count - 12);
  EXPECT_EQ(load.dropped, dropped);
}

TEST_P(EveryBalancerInAModel, StaysFiniteWhenDocumentsExcludeExperts) {
  ModelConfig config = tiny_config("AE");
  const auto router =
      std::shared_ptr<Configurable>(router_registry().at("document_pool").make_config());
  testing::set_fields(*router, {{"min_size", 2}, {"max_size", 3}});
  experts_of(config).router = {"document_pool", router};
  const Model model(pool_, config, 1);
  const TinyBatch batch = tiny_batch(pool_, {{40, 9}, {17, 30}});
  RoutingSession routing = session(model);
  EXPECT_TRUE(std::isfinite(train_once(model, batch, routing, Recompute::none)));
  for (Parameter* parameter : model.parameters()) {
    for (const float grad : parameter->grad.span<float>()) ASSERT_TRUE(std::isfinite(grad));
  }
}

TEST_P(EveryBalancerInAModel, LooksAtNoLaterTokenInEvaluation) {
  const Model model(pool_, tiny_config("AE"), 1);
  const TinyBatch batch = tiny_batch(pool_, {{40, 9}, {17, 30}});
  RoutingSession routing = session(model);
  (void)train_once(model, batch, routing, Recompute::none);
  const auto losses_of = [&](const TinyBatch& text) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    routing.begin_evaluation();
    ForwardContext context{tape, text.layout};
    context.routing = &routing;
    const Tensor losses = model.token_losses(context, text.tokens, text.targets);
    routing.end_evaluation();
    return losses;
  };
  // A batch in which only the last token of the first document is another.
  TinyBatch changed = tiny_batch(pool_, {{40, 9}, {17, 30}});
  changed.tokens.data<int32_t>()[39] = (changed.tokens.data<int32_t>()[39] + 1) % 64;
  const Tensor before = losses_of(batch);
  const Tensor after = losses_of(changed);
  for (int64_t t = 0; t < before.numel(); ++t) {
    if (t == 39) continue;
    EXPECT_EQ(testing_support::element(before, t), testing_support::element(after, t)) << t;
  }
}

INSTANTIATE_TEST_SUITE_P(MethodsDef, EveryBalancerInAModel,
                         ::testing::ValuesIn(testing::method_variants()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace sluice
