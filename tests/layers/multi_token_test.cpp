#include "layers/multi_token.h"

#include <gtest/gtest.h>

#include "tests/layers/model_gradients.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::plain_session;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;

ModelConfig with_depths(int64_t depths, double coefficient, const std::string& pattern = "AE",
                        const std::string& dtype = "f32") {
  ModelConfig config = tiny_config("AE", dtype);
  auto settings = std::make_shared<MultiTokenConfig>();
  settings->num_depths = depths;
  settings->pattern = pattern;
  settings->coefficient = coefficient;
  config.multi_token_prediction = settings;
  return config;
}

struct Trained {
  Model::Loss loss;
  std::vector<std::pair<std::string, Tensor>> grads;
};

Trained train(Pool& pool, const ModelConfig& config, const std::vector<std::vector<int64_t>>& pack,
              Recompute recompute = Recompute::none) {
  const Model model(pool, config, 3);
  RoutingSession session = plain_session(model);
  session.begin_step(1);
  session.begin_micro_batch(0);
  const TinyBatch batch = tiny_batch(pool, pack);
  testing_support::zero_grads(model, pool);
  Tape tape(pool);
  Trained result;
  result.loss =
      model.loss(training_context(tape, batch, session, recompute), batch.tokens, batch.targets);
  tape.backward(result.loss.total);
  for (const Parameter* parameter : model.parameters()) {
    result.grads.emplace_back(parameter->name, parameter->grad);
  }
  return result;
}

double loss_of_depths(const Trained& trained) {
  return trained.loss.auxiliary[static_cast<size_t>(LossKind::multi_token)];
}

TEST(MultiToken, RowsAndShiftsStayInsideTheirDocument) {
  Pool pool;
  Tape tape(pool);
  const TinyBatch batch = tiny_batch(pool, {{4, 1, 2}});
  const ForwardContext context{tape, batch.layout};
  const auto first = PredictionDepth::rows(context);
  EXPECT_EQ(first->layout.document_offsets, (std::vector<int64_t>{0, 3, 3, 4}));
  const auto ids = batch.tokens.span<int32_t>();
  const Tensor next = PredictionDepth::shifted(pool, batch.tokens, batch.layout, first->layout, 1);
  const auto shifted = next.span<int32_t>();
  EXPECT_EQ(std::vector<int32_t>(shifted.begin(), shifted.end()),
            (std::vector<int32_t>{ids[1], ids[2], ids[3], ids[6]}));
  const auto second = PredictionDepth::rows(first->context(context));
  EXPECT_EQ(second->layout.document_offsets, (std::vector<int64_t>{0, 2, 2, 2}));
}

TEST(MultiToken, IsTheCrossEntropyOfTheTokenAfterTheNext) {
  // With an untrained head of zeros every token costs log V: the loss counts the targets.
  Pool pool;
  ModelConfig config = with_depths(2, 0.5, "AF");
  config.init.std = 0.0;
  config.tie_embeddings = false;
  const Trained trained = train(pool, config, {{5, 3}});
  // 6 targets; depth 1 predicts 3 + 1 of them, depth 2 2 + 0.
  const double expected = 0.5 / 2.0 * std::log(64.0) * (4.0 + 2.0) / 6.0;
  EXPECT_NEAR(loss_of_depths(trained), expected, 1e-6);
}

TEST(MultiToken, WithoutWeightTheTrunkLearnsAsWithoutDepths) {
  Pool pool;
  const Trained with = train(pool, with_depths(2, 0.0, "AF"), {{7, 5}});
  ModelConfig plain = with_depths(1, 0.0);
  plain.multi_token_prediction = nullptr;
  const Trained without = train(pool, plain, {{7, 5}});
  size_t compared = 0;
  for (const auto& [name, grad] : without.grads) {
    for (const auto& [other, same] : with.grads) {
      if (other != name) continue;
      EXPECT_TRUE(same_bits(grad, same)) << name;
      ++compared;
    }
  }
  EXPECT_EQ(compared, without.grads.size());
  EXPECT_EQ(with.loss.language_model, without.loss.language_model);
}

TEST(MultiToken, GradientsFlowFromDepthToDepthToTheTrunk) {
  Pool pool;
  const ModelConfig config = with_depths(2, 0.7, "AE", "f64");
  const Model model(pool, config, 1);
  const TinyBatch batch = tiny_batch(pool, {{6, 5}});
  const auto total = [&](bool backward) {
    Tape tape(pool);
    std::optional<NoGrad> no_grad;
    if (!backward) no_grad.emplace(tape);
    RoutingSession session = plain_session(model);
    session.begin_step(1);
    session.begin_micro_batch(0);
    const auto loss =
        model.loss(training_context(tape, batch, session), batch.tokens, batch.targets);
    if (backward) tape.backward(loss.total);
    return loss.total.item();
  };
  testing_support::zero_grads(model, pool);
  (void)total(true);
  for (Parameter* parameter : model.parameters()) {
    parameter->materialise_grad();
    double* x = parameter->value.data<double>();
    const int64_t i = parameter->value.numel() / 2;
    const double original = x[i];
    x[i] = original + 1e-5;
    const double above = total(false);
    x[i] = original - 1e-5;
    const double below = total(false);
    x[i] = original;
    const double expected = (above - below) / 2e-5;
    EXPECT_NEAR(parameter->grad.data<double>()[i], expected, 1e-7 + 1e-5 * std::abs(expected))
        << parameter->name;
  }
}

TEST(MultiToken, RecomputationChangesNoBit) {
  Pool pool;
  const Trained once = train(pool, with_depths(2, 0.3), {{7, 5}});
  const Trained twice = train(pool, with_depths(2, 0.3), {{7, 5}}, Recompute::all);
  for (size_t i = 0; i < once.grads.size(); ++i) {
    EXPECT_TRUE(same_bits(once.grads[i].second, twice.grads[i].second)) << once.grads[i].first;
  }
}

TEST(MultiToken, IsNotRunInEvaluation) {
  Pool pool;
  ModelConfig plain = with_depths(1, 0.3);
  const Model with(pool, plain, 3);
  plain.multi_token_prediction = nullptr;
  const Model without(pool, plain, 3);
  const TinyBatch batch = tiny_batch(pool, {{6, 3}});
  const auto hidden = [&](const Model& model) {
    Tape tape(pool);
    const NoGrad no_grad(tape);
    RoutingSession session = plain_session(model);
    session.begin_evaluation();
    ForwardContext context{tape, batch.layout};
    context.routing = &session;
    return model.forward(context, batch.tokens).hidden.detached();
  };
  EXPECT_TRUE(same_bits(hidden(with), hidden(without)));
  EXPECT_EQ(with.experts_per_layer().size(), 2U);
}

TEST(MultiToken, DocumentsTooShortForADepthAreLeftOut) {
  Pool pool;
  const Trained trained = train(pool, with_depths(3, 0.3, "AF"), {{2, 2, 1, 3}});
  EXPECT_GT(loss_of_depths(trained), 0.0);
}

TEST(MultiToken, RefusesAPatternThatCannotBe) {
  ModelConfig config = with_depths(1, 0.3, "A[F]");
  EXPECT_EQ(config.check(),
            "multi_token_prediction.pattern: found a group in square brackets, allowed single "
            "sublayers");
  config = with_depths(1, 0.3, "AQ");
  EXPECT_EQ(config.check().rfind("multi_token_prediction.pattern \"AQ\", position 2", 0), 0U)
      << config.check();
}

}  // namespace
}  // namespace sluice
