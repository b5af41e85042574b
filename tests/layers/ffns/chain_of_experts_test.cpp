#include <gtest/gtest.h>

#include "layers/routed_layer.h"
#include "tests/layers/model_gradients.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;

using Json = nlohmann::json;

/// "AZ" with Z a chain of experts like the experts of tiny_config.
ModelConfig chain_config(const Json& fields, const std::string& dtype = "f32") {
  ModelConfig config = tiny_config("AE", dtype);
  auto chain = chain_of_experts_feed_forward.make_config();
  Json all = {{"num_experts", 4}, {"intermediate_size", 24}};
  all.update(fields);
  testing::set_fields(*chain, all);
  config.variants = {{"Z", {"chain_of_experts", std::shared_ptr<Configurable>(std::move(chain))}}};
  config.pattern = "AZ";
  return config;
}

TEST(ChainOfExperts, GradientsOfAWholeModelAgreeWithDifferences) {
  testing_support::expect_model_gradients(chain_config({{"iterations", 3}, {"top_k", 1.0}}, "f64"));
  testing_support::expect_model_gradients(
      chain_config({{"outer", "reference"}, {"shared", {{"intermediate_size", 8}}}}, "f64"));
}

TEST(ChainOfExperts, RoutesOnceForEveryIteration) {
  Pool pool;
  const ModelConfig config = chain_config({{"iterations", 3}});
  EXPECT_EQ(config.routed_layers().size(), 3U);
  const Model model(pool, config, 1);
  EXPECT_EQ(model.experts_per_layer(), (std::vector<int64_t>{4, 4, 4}));
  int64_t routers = 0;
  int64_t stacks = 0;
  for (const Parameter* parameter : model.parameters()) {
    routers += parameter->name.find("router") != std::string::npos ? 1 : 0;
    stacks += parameter->stack == Stack::routed_experts ? 1 : 0;
  }
  EXPECT_EQ(routers, 3);
  EXPECT_EQ(stacks, 3);  // the experts are the same in all of them
}

/// Hidden states in training; the models' common parameters are those of `values`.
Tensor hidden_of(Pool& pool, const Model& model) {
  RoutingSession session = plain_session(model);
  session.begin_step(1);
  session.begin_micro_batch(0);
  const TinyBatch batch = tiny_batch(pool, {{7, 4}});
  Tape tape(pool);
  const NoGrad no_grad(tape);
  return model.forward(training_context(tape, batch, session), batch.tokens).hidden.detached();
}

TEST(ChainOfExperts, OfOneIterationIsTheSparseFeedForward) {
  Pool pool;
  const Model chain(pool, chain_config({{"iterations", 1}}, "f64"), 5);
  const Model sparse(pool, tiny_config("AE", "f64"), 5);
  for (Parameter* parameter : chain.parameters()) {
    std::string name = parameter->name;
    const size_t at = name.find("iterations.0.");
    if (at != std::string::npos) name.erase(at, std::string("iterations.0.").size());
    bool found = false;
    for (const Parameter* other : sparse.parameters()) {
      if (other->name != name) continue;
      parameter->value.copy_from(other->value);
      found = true;
    }
    EXPECT_TRUE(found) << name;
  }
  const Tensor a = hidden_of(pool, chain);
  const Tensor b = hidden_of(pool, sparse);
  for (int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(element(a, i), element(b, i), 1e-12) << i;
}

TEST(ChainOfExperts, ByTheReferenceTheStreamGoesOnFromTheLastIteration) {
  // Without experts' output x^C is x^0 = norm(h), which the final norm leaves as it is.
  Pool pool;
  const ModelConfig config = chain_config({{"outer", "reference"}}, "f64");
  const Model model(pool, config, 5);
  for (Parameter* parameter : model.parameters()) {
    if (parameter->stack == Stack::routed_experts) {
      std::fill_n(parameter->value.data<double>(), parameter->value.numel(), 0.0);
    }
  }
  const Tensor y = hidden_of(pool, model);
  for (int64_t row = 0; row < y.dim(0); ++row) {
    double square = 0.0;
    for (int64_t d = 0; d < 32; ++d) square += std::pow(element(y, row * 32 + d), 2) / 32.0;
    EXPECT_NEAR(square, 1.0, 1e-3);
  }
}

}  // namespace
}  // namespace sluice
