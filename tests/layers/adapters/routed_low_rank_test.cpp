// Adapters that route: their equations, allocation by depth, and what they reduce to.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "layers/depth.h"
#include "layers/routed_layer.h"
#include "tests/layers/adapters/adapted_models.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_support::adapted_config;
using testing_support::copy_weights;
using testing_support::expect_near;
using testing_support::hidden_values;
using testing_support::Json;
using testing_support::parameter_of;
using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;

const std::string kRoom = "layers.0.attention.adapters.a.q.";

Json on_query(const Json& fields) {
  Json all = {{"linears", {"attention.q"}}, {"b_std", 0.3}};
  if (!fields.empty()) all.update(fields);
  return all;
}

int64_t adapter_size(const Model& model) {
  int64_t total = 0;
  for (const Parameter* parameter : model.parameters()) {
    if (is_adapter_parameter(parameter->name)) total += parameter->value.numel();
  }
  return total;
}

TEST(Mola, HasMoreExpertsInLaterLayers) {
  Pool pool;
  const ModelConfig config = adapted_config(
      "mola",
      {{"linears", {"attention.v", "feed_forward.down"}}, {"rank", 3}, {"allocation", {2, 6}}},
      "f32", "(AF)x4");
  const Model model(pool, config, 1);
  EXPECT_THAT(model.experts_per_layer(), ElementsAre(2, 2, 2, 2, 6, 6, 6, 6));
  // Sum over layers of E r (in + out) + E in, of v (32 -> 16) and down (48 -> 32).
  const int64_t of_expert = 3 * (32 + 16) + 32 + 3 * (48 + 32) + 48;
  EXPECT_EQ(adapter_size(model), (2 + 2 + 6 + 6) * of_expert);
  std::vector<int64_t> experts;
  for (const RoutingConfig* layer : config.routed_layers()) experts.push_back(layer->num_experts);
  EXPECT_EQ(experts, model.experts_per_layer());
  // What a routed layer chooses among is that map's own.
  EXPECT_EQ(model.routed_parameters(0).size(), 2U);
  EXPECT_EQ(model.routed_parameters(0)[0]->name, "layers.0.attention.adapters.a.v.w_a");
}

TEST(Mola, RefusesAnAllocationThatTheDepthDoesNotHold) {
  ModelConfig config = tiny_config("(AF)x2");
  config.adapters = {
      {"a", testing_support::adapter("mola", on_query({{"allocation", {2, 4, 6}}}))}};
  EXPECT_THAT(config.check(),
              HasSubstr("adapters.a.allocation: found 3 parts, allowed a divisor of "
                        "4"));
}

TEST(Mola, StandsBesideExpertsInOneModel) {
  Pool pool;
  ModelConfig config = adapted_config("mola", on_query({{"num_experts", 3}}), "f64", "AEAE");
  const Model model(pool, config, 1);
  EXPECT_THAT(model.experts_per_layer(), ElementsAre(3, 4, 3, 4));
  for (const Parameter* parameter : model.routed_parameters(1)) {
    EXPECT_FALSE(is_adapter_parameter(parameter->name)) << parameter->name;
  }
  testing_support::expect_model_gradients(config);
}

TEST(Mola, NumbersItsRoutedLayersBehindThoseOfItsSublayer) {
  Pool pool;
  ModelConfig config = tiny_config("AE", "f64");
  auto shared = std::make_shared<SharedExpertsConfig>();
  shared->intermediate_size = 24;
  testing_support::experts_of(config).shared = shared;
  config.adapters = {
      {"a", testing_support::adapter("mola", {{"linears", {"experts.up", "experts.gate"}},
                                              {"num_experts", 3},
                                              {"b_std", 0.3}})}};
  ASSERT_EQ(config.check(), "");
  const Model model(pool, config, 1);
  EXPECT_THAT(model.experts_per_layer(), ElementsAre(4, 3, 3));
  EXPECT_THAT(model.routed_parameters(1)[0]->name, HasSubstr("adapters.a.up"));
  testing_support::expect_model_gradients(config);
  // The other way round too: the numbers go by the recipe, not by who is made first.
  EXPECT_THAT(model.routed_parameters(2)[0]->name, HasSubstr("adapters.a.gate"));
}

TEST(Mola, RoutesInGroupsOfAdaptiveDepthAndInMultiTokenPrediction) {
  ModelConfig config = tiny_config("A[AF]F", "f64");
  const DepthEntry& entry = depth_registry().at("recursions_by_token_choice");
  config.depth = {std::string(entry.name), std::shared_ptr<Configurable>(entry.make_config())};
  config.adapters = {{"a", testing_support::adapter("mola", on_query({}))}};
  auto prediction = std::make_shared<MultiTokenConfig>();
  prediction->pattern = "AF";
  config.multi_token_prediction = prediction;
  ASSERT_EQ(config.check(), "");
  Pool pool;
  const Model model(pool, config, 1);
  EXPECT_EQ(model.experts_per_layer().size(), config.routed_layers().size());
  (void)testing_support::gradients_of(pool, model, tiny_batch(pool, {{20, 9}}));
}

TEST(Mola, AddsTheChosenExpertsByTheirWeights) {
  Pool pool;
  // With all experts chosen, weights p: y = W x + s sum p_e B_e A_e x, here by a LoRA for each expert
  // whose B carries p: with a router of zeros p is 1 / E.
  const Model mola(
      pool, adapted_config("mola", on_query({{"rank", 2}, {"num_experts", 3}, {"top_k", 3.0}})), 1);
  parameter_of(mola, kRoom + "router.weight").value.fill_zero();
  const Model lora(pool, adapted_config("lora", on_query({{"rank", 6}, {"alpha", 16.0}})), 2);
  copy_weights(mola, lora);
  for (const std::string factor : {"w_a", "w_b"}) {
    const Tensor& from = parameter_of(mola, kRoom + factor).value;
    std::copy_n(from.data<double>(), from.numel(),
                parameter_of(lora, kRoom + factor).value.data<double>());
  }
  // alpha / 2 / 3 is alpha / 6.
  expect_near(hidden_values(pool, mola), hidden_values(pool, lora), 1e-12);
}

TEST(Smora, InBlocksIsMola) {
  // Ranks of an expert whose router rows are equal have equal gates; in blocks of 2 with k = 4 the four
  // best ranks are the two best experts. Softmax over 8 ranks in pairs is half of that over 4 experts.
  Pool pool;
  const Json as_is = {{"type", "top_k"}, {"weights", "as_is"}};
  const Model mola(pool,
                   adapted_config("mola", on_query({{"rank", 2},
                                                    {"num_experts", 4},
                                                    {"top_k", 2.0},
                                                    {"alpha", 1.0},
                                                    {"router", as_is}})),
                   1);
  const Model smora(
      pool, adapted_config("smora", on_query({{"rank", 8}, {"top_k", 4.0}, {"alpha", 8.0}})), 2);
  EXPECT_THAT(smora.experts_per_layer(), ElementsAre(8));
  for (Parameter* target : smora.parameters()) {
    const Tensor& from = parameter_of(mola, target->name).value;
    double* to = target->value.data<double>();
    if (!target->name.ends_with("router.weight")) {
      ASSERT_EQ(from.numel(), target->value.numel());
      std::copy_n(from.data<double>(), from.numel(), to);
      continue;
    }
    for (int64_t rank = 0; rank < 8; ++rank) {
      to = std::copy_n(from.data<double>() + rank / 2 * 32, 32, to);
    }
  }
  // s p: 1 / 2 of mola times p; 1 of smora times p / 2.
  expect_near(hidden_values(pool, smora), hidden_values(pool, mola), 1e-12);
}

TEST(FlexRank, OfEqualRanksIsMola) {
  Pool pool;
  const Model mola(pool, adapted_config("mola", on_query({{"rank", 2}, {"num_experts", 3}})), 1);
  const Model flex(pool, adapted_config("flex_rank", on_query({{"ranks", {2, 2, 2}}})), 1);
  copy_weights(mola, flex);
  expect_near(hidden_values(pool, flex), hidden_values(pool, mola), 1e-12);
}

TEST(FlexRank, OfMixedRanksIsMolaWithRowsOfZeros) {
  Pool pool;
  const double alpha = 6.0;
  const Model mola(
      pool, adapted_config("mola", on_query({{"rank", 3}, {"num_experts", 3}, {"alpha", alpha}})),
      1);
  const Model flex(
      pool, adapted_config("flex_rank", on_query({{"ranks", {0, 1, 3}}, {"alpha", alpha}})), 2);
  EXPECT_EQ(adapter_size(flex), (1 + 3) * (32 + 32) + 3 * 32);
  copy_weights(mola, flex);
  double* a = parameter_of(mola, kRoom + "w_a").value.data<double>();
  double* b = parameter_of(mola, kRoom + "w_b").value.data<double>();
  std::fill_n(b, 3 * 32, 0.0);           // expert 0: rank 0
  std::fill_n(b + 3 * 32, 3 * 32, 0.0);  // expert 1: rank 1, three times the scale
  for (const std::string e : {"1", "2"}) {
    const int64_t first = std::stoll(e) * 3 * 32;
    const Tensor& own_a = parameter_of(flex, kRoom + "w_a." + e).value;
    const Tensor& own_b = parameter_of(flex, kRoom + "w_b." + e).value;
    std::copy_n(own_a.data<double>(), own_a.numel(), a + first);
    std::transform(own_b.data<double>(), own_b.data<double>() + own_b.numel(), b + first,
                   [&](double v) { return e == "1" ? 3.0 * v : v; });
  }
  expect_near(hidden_values(pool, flex), hidden_values(pool, mola), 1e-12);
}

TEST(LoraMixer, ComputesWhatMolaComputes) {
  Pool pool;
  const Model mola(pool, adapted_config("mola", on_query({})), 1);
  const Model mixer(pool, adapted_config("lora_mixer", on_query({})), 1);
  expect_near(hidden_values(pool, mixer), hidden_values(pool, mola), 1e-12);
}

TEST(LoraMixer, TeachesTheRouterByAllOfTheSoftmax) {
  // dL/dp is what a mixture of all experts by p would give at the same output: with every expert chosen
  // and softmax weights as they are, hard and soft are one.
  Pool pool;
  const Json as_is = {{"type", "top_k"}, {"weights", "as_is"}};
  const auto config = [&](const std::string& type, double top_k, const Json& more) {
    Json fields = on_query({{"num_experts", 3}, {"top_k", top_k}, {"router", as_is}});
    fields.update(more);
    return adapted_config(type, fields);
  };
  const auto batch = tiny_batch(pool, {{9, 5}});
  const auto router_gradient = [&](const Model& model) {
    (void)testing_support::gradients_of(pool, model, batch);
    const Tensor& grad = parameter_of(model, "router.weight").grad;
    return std::vector<double>(grad.data<double>(), grad.data<double>() + grad.numel());
  };
  const Model soft(pool, config("mola", 3.0, Json::object()), 1);
  const Model all(pool, config("lora_mixer", 3.0, {{"entropy", 0.0}}), 1);
  expect_near(router_gradient(all), router_gradient(soft), 1e-12);
  // With one of three, all rows of the router learn; mola's too, through the softmax, but by less.
  const Model hard(pool, config("lora_mixer", 1.0, {{"entropy", 0.0}}), 1);
  const Model masked(pool, config("mola", 1.0, Json::object()), 1);
  EXPECT_NE(router_gradient(hard), router_gradient(masked));
}

TEST(LoraMixer, AddsTheEntropyOfItsRouting) {
  Pool pool;
  const Model model(
      pool, adapted_config("lora_mixer", on_query({{"num_experts", 4}, {"entropy", 0.5}})), 1);
  parameter_of(model, "router.weight").value.fill_zero();
  const auto batch = tiny_batch(pool, {{9, 5}});
  RoutingSession session = plain_session(model);
  Tape tape(pool);
  testing_support::zero_grads(model, pool);
  const auto loss = model.loss(testing_support::training_context(tape, batch, session),
                               batch.tokens, batch.targets);
  EXPECT_NEAR(loss.auxiliary[static_cast<size_t>(LossKind::balance)], 0.5 * std::log(4.0), 1e-9);
}

TEST(RoutedAdapters, RefuseRoutersThatNeedMoreThanTheToken) {
  Pool pool;
  const auto with_router = [&](const std::string& router) {
    ModelConfig config = tiny_config("AF");
    config.adapters = {
        {"a", testing_support::adapter("mola", on_query({{"router", {{"type", router}}}}))}};
    return config;
  };
  EXPECT_THAT(with_router("attention_aware").check(), HasSubstr("reads the attention"));
  EXPECT_THAT(testing::error_of<ConfigError>(
                  [&] { const Model model(pool, with_router("document_mean"), 1); }),
              HasSubstr("remembers earlier tokens"));
}

}  // namespace
}  // namespace sluice
