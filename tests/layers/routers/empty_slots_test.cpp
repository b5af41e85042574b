// Slots that a router leaves empty cost nothing and change nothing.

#include <numeric>

#include "tests/layers/routers/routed.h"
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
using testing_support::zero_grads;

struct Outcome {
  double loss = 0.0;
  double expert_flops = 0.0;
  std::vector<Tensor> grads;
  std::vector<int64_t> load;
};

Outcome train(Pool& pool, const std::string& router, const nlohmann::json& options, double top_k,
              Recompute recompute = Recompute::none) {
  ModelConfig config = tiny_config("AE");
  experts_of(config).top_k = top_k;
  auto router_config = router_registry().at(router).make_config();
  testing::set_fields(*router_config, options);
  experts_of(config).router = {router, std::shared_ptr<Configurable>(std::move(router_config))};
  const Model model(pool, config, 1);
  zero_grads(model, pool);
  const TinyBatch batch = tiny_batch(pool, {{9, 14}, {23}});
  CostMeter meter;
  Tape tape(pool, &meter);
  RoutingSession session = plain_session(model);
  const ForwardContext context = training_context(tape, batch, session, recompute);
  const Model::Loss loss = model.loss(context, batch.tokens, batch.targets);
  tape.backward(loss.total);
  Outcome outcome{.loss = loss.language_model,
                  .expert_flops = meter.at(Phase::experts, Direction::forward).flops +
                                  meter.at(Phase::experts, Direction::backward).flops,
                  .load = session.loads()[0].counts};
  for (Parameter* parameter : model.parameters()) {
    parameter->materialise_grad();
    outcome.grads.push_back(parameter->grad.clone(pool));
  }
  return outcome;
}

void expect_same(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.load, b.load);
  for (size_t i = 0; i < a.grads.size(); ++i) EXPECT_TRUE(same_bits(a.grads[i], b.grads[i]));
}

TEST(EmptySlots, CostNothingAndChangeNothing) {
  Pool pool;
  // One expert of four slots, against one of one slot.
  const Outcome sparse = train(pool, "top_p", {{"threshold", 0.0}}, 4.0);
  const Outcome plain = train(pool, "top_k", {{"weights", "as_is"}}, 1.0);
  expect_same(sparse, plain);
  EXPECT_EQ(sparse.expert_flops, plain.expert_flops);
  const Outcome dense = train(pool, "top_p", {{"threshold", 1.0}}, 4.0);
  EXPECT_EQ(dense.expert_flops, 4.0 * plain.expert_flops);
}

TEST(EmptySlots, OfNullExpertsCostNothing) {
  Pool pool;
  const Outcome plain = train(pool, "top_k", {}, 2.0);
  const Outcome nulls = train(pool, "null_experts", {{"num_null_experts", 4}}, 2.0);
  const auto assignments = [](const Outcome& outcome) {
    return static_cast<double>(
        std::accumulate(outcome.load.begin(), outcome.load.end(), int64_t{0}));
  };
  EXPECT_LT(assignments(nulls), 0.8 * assignments(plain));
  // Tokens without a loss run too, so the two ratios need not agree to the digit.
  EXPECT_NEAR(nulls.expert_flops / plain.expert_flops, assignments(nulls) / assignments(plain),
              0.05);
}

TEST(EmptySlots, AreReplayedInRecomputation) {
  Pool pool;
  for (const char* router : {"top_p", "null_experts", "dense_to_sparse"}) {
    expect_same(train(pool, router, {}, 4.0, Recompute::all), train(pool, router, {}, 4.0));
  }
}

}  // namespace
}  // namespace sluice
