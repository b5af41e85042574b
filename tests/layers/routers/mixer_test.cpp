#include <gmock/gmock.h>

#include <set>

#include "tests/layers/model_gradients.h"
#include "tests/layers/routers/routed.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing::numbers;
using testing_support::expect_model_gradients;
using testing_support::experts_of;
using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;
using testing_support::zero_grads;

constexpr Progress kDue{.step = 0};

class Mixer : public testing::RouterFixture {
 protected:
  /// The page's four domains in two clusters, without noise.
  void make_example() {
    make("mixer", {{"domains", 4}, {"context_size", 2}, {"update_gate_every", 1}, {"noise", 0.0}},
         {.experts = 2, .hidden_size = 3, .top_k = 1});
    set("contexts", {0, 0, .2, 0, 2, 2, 2.2, 2});
    set("centroids", {0, 0, 1, 1});
  }
  [[nodiscard]] std::vector<double> values(const std::string& name) {
    return numbers(parameter(name).value);
  }
  /// One document of one token per domain.
  [[nodiscard]] std::vector<int32_t> experts_by_domain(int64_t domains) {
    layout_ = SequenceLayout::single(pool_, domains);
    layout_.document_offsets = {0};
    layout_.document_domains.clear();
    for (int32_t j = 0; j < domains; ++j) {
      layout_.positions.data<int32_t>()[j] = 0;
      layout_.document_offsets.push_back(j + 1);
      layout_.document_domains.push_back(j);
    }
    return route(Tensor::zeros(pool_, {domains, width_}, DType::f64), 1).selection.expert;
  }

  /// Losses of the page with 1 to 4 tokens per domain, as sums: [J, E] and [J].
  const std::vector<double> sums_ = {.1, .9, .4, 1.6, .9, .6, 2., .4, 1, 2, 3, 4};
};

TEST_F(Mixer, FitsThePagesGate) {
  make_example();
  router_->end_step(sums_, kDue);
  const std::vector<double> weight = {0, 0, -.5, .5, 1, 0};
  const std::vector<double> centroids = {.1, 0, 2.1, 2};
  for (size_t i = 0; i < weight.size(); ++i) EXPECT_NEAR(values("weight")[i], weight[i], 1e-12);
  for (size_t i = 0; i < centroids.size(); ++i) {
    EXPECT_NEAR(values("centroids")[i], centroids[i], 1e-12);
  }
  EXPECT_EQ(experts_by_domain(4), (std::vector<int32_t>{0, 0, 1, 1}));
}

TEST_F(Mixer, GatesBySoftmaxOfTheContext) {
  make_example();
  set("weight", {1, 0, 0, 0, 0, .5});
  (void)experts_by_domain(4);
  const auto routed = route(Tensor::zeros(pool_, {4, 3}, DType::f64), 1);
  const std::vector<double> logits = {0, .5, .2, .5, 2, .5, 2.2, .5};
  for (size_t i = 0; i < logits.size(); ++i) {
    EXPECT_NEAR(numbers(routed.scores.logits)[i], logits[i], 1e-12);
    const double other = logits[i % 2 == 0 ? i + 1 : i - 1];
    EXPECT_NEAR(numbers(routed.scores.probabilities)[i], 1 / (1 + std::exp(other - logits[i])),
                1e-12);
  }
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{1, 1, 0, 0}));
  EXPECT_EQ(routed.weights, std::vector<double>(4, 1.0));
}

TEST_F(Mixer, TakesTheLowerOfGatesThatDifferByLessThanAMillionth) {
  make_example();
  // Near equal gates differ by half of what their logits differ.
  set("weight", {0, 0, 0, 0, 0, 1e-6});
  EXPECT_EQ(experts_by_domain(4), (std::vector<int32_t>{0, 0, 0, 0}));
  set("weight", {0, 0, 0, 0, 0, 4e-6});
  EXPECT_EQ(experts_by_domain(4), (std::vector<int32_t>{1, 1, 1, 1}));
}

TEST_F(Mixer, GivesEveryClusterAnExpertOfItsOwn) {
  // As many columns as the fit needs to be exact.
  make("mixer", {{"domains", 6}, {"context_size", 6}, {"update_gate_every", 1}},
       {.experts = 6, .hidden_size = 3, .top_k = 1});
  std::vector<double> contexts;
  std::vector<double> sums;
  for (uint64_t i = 0; i < 36; ++i) {
    contexts.push_back(3.0 * normal({.seed = 4}, 0, i));
    sums.push_back(uniform({.seed = 5}, 0, i));
  }
  sums.resize(42, 1.0);
  set("contexts", contexts);
  set("centroids", contexts);
  router_->end_step(sums, kDue);
  const auto experts = experts_by_domain(6);
  EXPECT_EQ(std::set<int32_t>(experts.begin(), experts.end()).size(), 6U);
}

TEST_F(Mixer, KeepsItsGateAndForgetsCentroidsWhenAClusterIsEmpty) {
  make_example();
  set("contexts", std::vector<double>(8, 1.0));
  set("centroids", {1, 1, 5, 5});
  const auto weight = values("weight");
  router_->end_step(sums_, {.step = 3});
  EXPECT_EQ(values("weight"), weight);
  const auto forgotten = values("centroids");
  for (const double value : forgotten) EXPECT_LE(std::abs(value), 1e-3);
  // A new start at every step, and the same one when the step is done again.
  router_->end_step(sums_, {.step = 4});
  EXPECT_NE(values("centroids"), forgotten);
  router_->end_step(sums_, {.step = 3});
  EXPECT_EQ(values("centroids"), forgotten);
}

TEST_F(Mixer, KeepsItsGateAndCentroidsWhenAClusterHasNoTokens) {
  make_example();
  const auto weight = values("weight");
  std::vector<double> sums = sums_;
  sums[8] = sums[9] = 0.0;
  router_->end_step(sums, kDue);
  EXPECT_EQ(values("weight"), weight);
  EXPECT_NEAR(values("centroids")[2], 2.1, 1e-12);
}

TEST_F(Mixer, ChangesNothingWhenALossIsNotANumber) {
  make_example();
  const auto weight = values("weight");
  std::vector<double> sums = sums_;
  sums[3] = std::numeric_limits<double>::quiet_NaN();
  router_->end_step(sums, kDue);
  EXPECT_EQ(values("weight"), weight);
  EXPECT_EQ(values("centroids"), (std::vector<double>{0, 0, 1, 1}));
}

TEST_F(Mixer, UpdatesItsGateEverySoManySteps) {
  make("mixer", {{"domains", 4}, {"context_size", 2}, {"update_gate_every", 3}},
       {.experts = 2, .hidden_size = 3, .top_k = 1});
  set("contexts", {0, 0, .2, 0, 2, 2, 2.2, 2});
  set("centroids", {0, 0, 1, 1});
  for (const int64_t step : {0, 1, 3, 4}) {
    const auto weight = values("weight");
    EXPECT_FALSE(router_->wants_expert_losses({.step = step}));
    router_->end_step(sums_, {.step = step});
    EXPECT_EQ(values("weight"), weight);
  }
  EXPECT_TRUE(router_->wants_expert_losses({.step = 2}));
  const auto weight = values("weight");
  router_->end_step(sums_, {.step = 2});
  EXPECT_NE(values("weight"), weight);
}

TEST_F(Mixer, AddsTheProjectedContextToWhatExpertsRead) {
  make_example();
  set("projection", {1, 0, 0, 1, 1, 1});
  (void)experts_by_domain(4);
  Tape tape(pool_);
  const NoGrad no_grad(tape);
  const ForwardContext context = context_of(tape, {});
  const Tensor x = rows({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 3);
  EXPECT_EQ(numbers(router_->expert_input(context, x)),
            (std::vector<double>{1, 1, 1, 1.2, 1, 1.2, 3, 3, 5, 3.2, 3, 5.2}));
}

ModelConfig model_of(int64_t domains, const std::string& dtype = "f64") {
  ModelConfig config = tiny_config("AEAE", dtype);
  experts_of(config).top_k = 1.0;
  auto router = router_registry().at("mixer").make_config();
  testing::set_fields(*router, {{"domains", domains}, {"context_size", 3}});
  experts_of(config).router = {"mixer", std::shared_ptr<Configurable>(std::move(router))};
  return config;
}

TEST_F(Mixer, HasTheGradientsOfDifferences) { expect_model_gradients(model_of(4)); }

TEST_F(Mixer, LearnsContextsButNotTheGateByGradients) {
  const Model model(pool_, model_of(4), 1);
  zero_grads(model, pool_);
  TinyBatch batch = tiny_batch(pool_, {{9, 14}, {23}});
  batch.layout.document_domains = {0, 2, 2};
  Tape tape(pool_);
  RoutingSession session = plain_session(model);
  tape.backward(
      model.loss(training_context(tape, batch, session), batch.tokens, batch.targets).total);
  int gates = 0;
  int projections = 0;
  for (Parameter* p : model.parameters()) {
    if (p->name.ends_with("router.weight") || p->name.ends_with("router.centroids")) {
      EXPECT_FALSE(p->trainable);
      EXPECT_FALSE(p->grad.defined());
      ++gates;
    }
    if (p->name.ends_with("router.projection")) ++projections;
    if (!p->name.ends_with("router.contexts")) continue;
    EXPECT_EQ(p->name, "layers.1.router.contexts");
    p->materialise_grad();
    const auto grad = numbers(p->grad);
    for (size_t i = 0; i < grad.size(); ++i) {
      // Domains 1 and 3 have no document.
      EXPECT_EQ(grad[i] != 0.0, i / 3 % 2 == 0) << i;
    }
  }
  // One gate for all layers, a projection for each.
  EXPECT_EQ(gates, 2);
  EXPECT_EQ(projections, 2);
}

TEST_F(Mixer, SendsADomainToTheSameExpertInEveryLayer) {
  const Model model(pool_, model_of(4), 1);
  TinyBatch batch = tiny_batch(pool_, {{9, 14}, {23}});
  batch.layout.document_domains = {0, 2, 3};
  Tape tape(pool_);
  const NoGrad no_grad(tape);
  RoutingSession session = plain_session(model);
  (void)model.forward(training_context(tape, batch, session), batch.tokens);
  const auto of_layer = [&](int64_t layer) {
    return session.select(layer, /*replay=*/true, 0, [](Balancer&, Selection&) {}).expert;
  };
  EXPECT_EQ(of_layer(0), of_layer(1));
}

TEST_F(Mixer, RefusesMoreExpertsThanDomainsAndMoreThanOnePerToken) {
  const auto config = router_registry().at("mixer").make_config();
  testing::set_fields(*config, {{"domains", 4}});
  const auto& router = dynamic_cast<const RouterConfig&>(*config);
  EXPECT_EQ(router.check_against(4, 1), "");
  EXPECT_EQ(router.check_against(5, 1),
            "num_experts: found 5, allowed 1 to 4 (router.domains): router mixer gives every "
            "expert a domain of its own");
  EXPECT_EQ(router.check_against(4, 2),
            "top_k: found 2, allowed 1 (router mixer takes one expert)");
}

}  // namespace
}  // namespace sluice
