#include "layers/ffns/moe.h"

#include <gtest/gtest.h>

#include "tests/layers/model_gradients.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::experts_of;
using testing_support::plain_session;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;

/// Hidden states in training.
Tensor hidden_of(Pool& pool, const Model& model) {
  RoutingSession session = plain_session(model);
  session.begin_step(1);
  session.begin_micro_batch(0);
  const TinyBatch batch = tiny_batch(pool, {{7, 4}});
  Tape tape(pool);
  const NoGrad no_grad(tape);
  return model.forward(training_context(tape, batch, session), batch.tokens).hidden.detached();
}

TEST(SharedPool, OfAllLayersIsOneSetOfExpertsWithARouterEach) {
  Pool pool;
  ModelConfig config = tiny_config("AEAEAE", "f64");
  const auto stacks = [&] {
    const Model model(pool, config, 1);
    std::vector<std::string> names;
    for (const Parameter* parameter : model.parameters()) {
      if (parameter->stack == Stack::routed_experts) names.push_back(parameter->name);
    }
    EXPECT_EQ(model.experts_per_layer().size(), 3U);
    for (int64_t layer = 0; layer < 3; ++layer) {
      EXPECT_EQ(model.routed_parameters(layer).size(), 3U);
    }
    return names;
  };
  EXPECT_EQ(stacks().size(), 9U);
  experts_of(config).pool_layers = 2;
  const auto pairs = stacks();
  ASSERT_EQ(pairs.size(), 6U);
  EXPECT_EQ(pairs[0], "layers.1.experts.w_gate");
  EXPECT_EQ(pairs[3], "layers.5.experts.w_gate");
  experts_of(config).pool_layers.reset();
  EXPECT_EQ(stacks().size(), 3U);
  testing_support::expect_model_gradients(config);
}

TEST(ResidualExperts, WeighRoutedAndSharedExpertsByASoftmax) {
  Pool pool;
  ModelConfig config = tiny_config("AE", "f64");
  auto shared = std::make_shared<SharedExpertsConfig>();
  shared->intermediate_size = 24;
  shared->combine = SharedExpertsConfig::Combine::learned;
  experts_of(config).shared = shared;
  testing_support::expect_model_gradients(config);
  // A bias that gives all weight to one side: the model with that side alone.
  const Model both(pool, config, 5);
  for (Parameter* parameter : both.parameters()) {
    if (parameter->name == "layers.1.w_shares") {
      std::fill_n(parameter->value.data<double>(), parameter->value.numel(), 0.0);
    }
    if (parameter->name == "layers.1.b_shares") {
      parameter->value.data<double>()[0] = 800.0;
      parameter->value.data<double>()[1] = 0.0;
    }
  }
  experts_of(config).shared = nullptr;
  const Model routed(pool, config, 5);
  EXPECT_TRUE(same_bits(hidden_of(pool, both), hidden_of(pool, routed)));
}

TEST(GatedSharedExperts, WeighTheSharedExpertsAloneByASigmoid) {
  Pool pool;
  ModelConfig config = tiny_config("AE", "f64");
  auto shared = std::make_shared<SharedExpertsConfig>();
  shared->intermediate_size = 24;
  shared->combine = SharedExpertsConfig::Combine::gated;
  experts_of(config).shared = shared;
  testing_support::expect_model_gradients(config);
  // Without a gate the sigmoid is 1/2: half of what a sum would add.
  Model gated(pool, config, 5);
  shared->combine = SharedExpertsConfig::Combine::sum;
  Model summed(pool, config, 5);
  for (Parameter* parameter : gated.parameters()) {
    if (parameter->name != "layers.1.w_shared_gate") continue;
    EXPECT_EQ(parameter->value.shape(), Shape({1, config.hidden_size}));
    std::fill_n(parameter->value.data<double>(), parameter->value.numel(), 0.0);
  }
  for (Parameter* parameter : summed.parameters()) {
    if (parameter->name != "layers.1.shared_experts.w_down") continue;
    double* values = parameter->value.data<double>();
    for (int64_t i = 0; i < parameter->value.numel(); ++i) values[i] *= 0.5;
  }
  EXPECT_LT(testing_support::relative_distance(hidden_of(pool, gated), hidden_of(pool, summed)),
            1e-14);
}

}  // namespace
}  // namespace sluice
