#include "layers/momentum.h"

#include "tests/layers/model_gradients.h"
#include "tests/support/set_fields.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::experts_of;
using testing_support::plain_session;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;
using testing_support::zero_grads;

constexpr double kPrinted = 6e-7;

class MomentumTest : public ::testing::Test {
 protected:
  /// x after layers of outputs f, from 0.
  std::vector<double> walk(const MomentumConfig& config, const std::vector<double>& f) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    const SequenceLayout layout = SequenceLayout::single(pool_, 1);
    const ForwardContext context{tape, layout};
    BlockState state;
    std::vector<double> x = {0.0};
    for (size_t layer = 0; layer < f.size(); ++layer) {
      const Tensor output = Tensor::of<double>(pool_, {1, 1}, {f[layer]});
      x.push_back(x.back() + momentum_step(context, config, layer == 0, output, state).item());
      momentum_ = state.side.at("momentum").item();
    }
    return x;
  }

  struct Trained {
    double loss;
    std::vector<Tensor> grads;
  };
  Trained train(const ModelConfig& config, Recompute recompute = Recompute::none) {
    const Model model(pool_, config, 1);
    zero_grads(model, pool_);
    const TinyBatch batch = tiny_batch(pool_, {{9, 14}, {23}});
    Tape tape(pool_);
    RoutingSession session = plain_session(model);
    const Model::Loss loss =
        model.loss(training_context(tape, batch, session, recompute), batch.tokens, batch.targets);
    Trained result{loss.total.item(), {}};
    tape.backward(loss.total);
    for (Parameter* parameter : model.parameters()) {
      parameter->materialise_grad();
      result.grads.push_back(parameter->grad.clone(pool_));
    }
    return result;
  }

  static ModelConfig model_with(const nlohmann::json& options, const std::string& dtype) {
    ModelConfig config = tiny_config("AEFEAE", dtype);
    auto momentum = std::make_shared<MomentumConfig>();
    testing::set_fields(*momentum, options);
    experts_of(config).momentum = momentum;
    return config;
  }

  Pool pool_;
  double momentum_ = 0.0;
};

const nlohmann::json kAdam = {{"first_adam", {{"rate", 1.0}}}};

TEST_F(MomentumTest, AgreesWithTheWorkedExample) {
  const MomentumConfig config;
  const std::vector<double> m = {1.0, 0.2, 0.39};
  const std::vector<double> expected = {0.0, -1.0, -1.2, -1.59};
  for (size_t layers = 1; layers <= 3; ++layers) {
    const std::vector<double> f = {1.0, -0.5, 0.25};
    const auto x = walk(config, {f.begin(), f.begin() + static_cast<int64_t>(layers)});
    EXPECT_NEAR(x.back(), expected[layers], 1e-15);
    EXPECT_NEAR(momentum_, m[layers - 1], 1e-15);
  }
}

TEST_F(MomentumTest, FirstLayerMayTakeAnAdamStep) {
  MomentumConfig config;
  testing::set_fields(config, kAdam);
  // .1 f / (.001 f^2)^(1/2), in which 1e-8 plays no part in the printed digits.
  for (const double f : {1.0, -3.0}) {
    EXPECT_NEAR(walk(config, {f})[1], f > 0 ? -3.1622 : 3.1622, 1e-4);  // cut off, not rounded
    EXPECT_NEAR(walk(config, {f})[1], -0.1 * f / std::sqrt(0.001 * f * f + 1e-8), 1e-12);
  }
  // The layers behind it take momentum steps, of an m that the first one's output began.
  const auto x = walk(config, {1.0, -0.5, 0.25});
  EXPECT_NEAR(x[2] - x[1], -0.2, kPrinted);
  EXPECT_NEAR(x[3] - x[2], -0.39, kPrinted);
  EXPECT_EQ(walk(config, {0.0})[1], 0.0);
}

TEST_F(MomentumTest, WithoutDecayAndBackwardsIsThePlainResidual) {
  const Trained plain = train(tiny_config("AEFEAE"));
  const Trained same = train(model_with({{"decay", 0.0}, {"rate", -1.0}}, "f32"));
  EXPECT_EQ(same.loss, plain.loss);
  for (size_t p = 0; p < plain.grads.size(); ++p) {
    EXPECT_EQ(testing_support::relative_distance(same.grads[p], plain.grads[p]), 0.0);
  }
  EXPECT_NE(train(model_with({{"decay", 0.7}, {"rate", -1.0}}, "f32")).loss, plain.loss);
}

TEST_F(MomentumTest, GradientsAgreeWithDifferences) {
  testing_support::expect_model_gradients(model_with({{"rate", 0.8}}, "f64"));
  // An Adam step turns sharply where an output is near 0.
  testing_support::expect_model_gradients(model_with(kAdam, "f64"), 2e-6);
}

TEST_F(MomentumTest, RecomputationChangesNoBit) {
  for (const nlohmann::json& options : {nlohmann::json{{"decay", 0.7}}, kAdam}) {
    const Trained plain = train(model_with(options, "f32"));
    for (const Recompute recompute : {Recompute::experts, Recompute::all}) {
      const Trained again = train(model_with(options, "f32"), recompute);
      EXPECT_EQ(again.loss, plain.loss);
      for (size_t p = 0; p < plain.grads.size(); ++p) {
        EXPECT_TRUE(same_bits(again.grads[p], plain.grads[p])) << p;
      }
    }
  }
}

TEST_F(MomentumTest, DecodesWhatItEvaluates) {
  for (const nlohmann::json& options : {nlohmann::json{{"decay", 0.7}}, kAdam}) {
    const Model model(pool_, model_with(options, "f64"), 1);
    const TinyBatch batch = tiny_batch(pool_, {{12}});
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    RoutingSession session = plain_session(model);
    session.begin_evaluation();
    ForwardContext context{tape, batch.layout};
    context.routing = &session;
    const Tensor whole = model.forward(context, batch.tokens).hidden;
    DecodeState state = model.start_decoding(pool_, 12);
    int64_t row = 0;
    for (const int64_t count : {5, 1, 1, 5}) {
      const SequenceLayout layout = SequenceLayout::single(pool_, count, row);
      ForwardContext step{tape, layout};
      step.routing = &session;
      const Tensor tokens =
          Tensor::of<int32_t>(pool_, {count},
                              batch.tokens.span<int32_t>().subspan(static_cast<size_t>(row),
                                                                   static_cast<size_t>(count)));
      const Tensor hidden = model.decode(step, tokens, state);
      for (int64_t i = 0; i < hidden.numel(); ++i) {
        ASSERT_NEAR(element(hidden, i), element(whole, row * whole.dim(1) + i), 1e-10);
      }
      row += count;
    }
    session.end_evaluation();
  }
}

TEST_F(MomentumTest, RefusesOtherThanTwoBetas) {
  AdamStepConfig config;
  EXPECT_EQ(config.check(), "");
  config.betas = {0.9};
  EXPECT_EQ(config.check(), "betas: found 1 numbers, allowed 2 (beta1, beta2)");
  config.betas = {0.9, 1.0};
  EXPECT_EQ(config.check(), "betas: found 1 as beta2, allowed from 0 to below 1");
}

}  // namespace
}  // namespace sluice
