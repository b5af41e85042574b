#include "layers/output_gate.h"

#include <gtest/gtest.h>

#include "layers/mixers/sparse_attention.h"
#include "layers/mixers/workspace.h"
#include "tests/layers/layer_checks.h"
#include "tests/support/set_fields.h"

namespace sluice {
namespace {

using testing_support::Gradients;
using testing_support::gradients_of;
using testing_support::hidden_of;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

/// MF twice, with `pattern`'s gated layers between: V sparse attention, K a workspace, Y a memory with
/// product keys.
ModelConfig gated(const std::string& pattern, double bias, const std::string& dtype = "f32") {
  ModelConfig config = tiny_config(pattern, dtype);
  auto& sparse = dynamic_cast<SparseAttentionConfig&>(config.section("sparse_attention"));
  testing::set_fields(sparse, {{"num_heads", 4}, {"chunk_size", 4}, {"window", 4}});
  auto& workspace = dynamic_cast<WorkspaceConfig&>(config.section("workspace"));
  testing::set_fields(workspace, {{"num_heads", 2}, {"chunk_size", 4}, {"num_slots", 4}});
  std::shared_ptr<Configurable> memory;
  for (const FeedForwardEntry* entry : feed_forward_table()) {
    if (entry->name == "product_key_memory") memory = entry->make_config();
  }
  testing::set_fields(*memory, {{"num_keys", 8}, {"top_k", 4}, {"key_size", 8}});
  for (Configurable* section : {static_cast<Configurable*>(&sparse),
                                static_cast<Configurable*>(&workspace), memory.get()}) {
    testing::set_fields(*section, {{"output_gate", true}, {"output_gate_bias", bias}});
  }
  config.variants = {{"Y", {"product_key_memory", memory}}};
  return config;
}

/// Gives `to` the values of the parameters of `from`, sublayer by sublayer: `place[i]` is where
/// sublayer i of `from` stands in `to`.
void graft(const Model& from, const Model& to, const std::vector<int>& place) {
  for (Parameter* source : from.parameters()) {
    std::string name = source->name;
    for (size_t i = place.size(); i-- > 0;) {
      const std::string own = "layers." + std::to_string(i) + ".";
      if (!name.starts_with(own)) continue;
      name = "layers." + std::to_string(place[i]) + "." + name.substr(own.size());
      break;
    }
    bool found = false;
    for (Parameter* target : to.parameters()) {
      if (target->name != name) continue;
      target->value.copy_from(source->value);
      found = true;
    }
    ASSERT_TRUE(found) << name;
  }
}

TEST(OutputGate, ClosedLeavesTheBackboneBitForBit) {
  Pool pool;
  const TinyBatch batch = tiny_batch(pool, {{30, 3}, {17}});
  const Model backbone(pool, tiny_config("MFMF"), 1);
  const Model grown(pool, gated("MFVKMYF", -1000.0), 2);
  graft(backbone, grown, {0, 1, 4, 6});
  EXPECT_TRUE(same_bits(hidden_of(pool, grown, batch), hidden_of(pool, backbone, batch)));
  // And so do the gradients; what is behind the gates gets none.
  const Gradients expected = gradients_of(pool, backbone, batch);
  const Gradients actual = gradients_of(pool, grown, batch);
  EXPECT_EQ(actual.loss, expected.loss);
  const auto parameters = grown.parameters();
  size_t inside = 0;
  for (size_t p = 0; p < parameters.size(); ++p) {
    const std::string& name = parameters[p]->name;
    const bool is_gated = name.starts_with("layers.2.") || name.starts_with("layers.3.") ||
                          name.starts_with("layers.5.");
    if (is_gated) {
      ++inside;
      for (const float g : actual.of[p].span<float>()) ASSERT_EQ(g, 0.0F) << name;
    }
  }
  EXPECT_EQ(parameters.size() - inside, expected.of.size());
  EXPECT_GT(inside, 20U);
}

struct OpeningAtStep5 final : ScheduleShape {
  void fields(FieldVisitor& /*v*/) override {}
  [[nodiscard]] double value(const Progress& progress) const override {
    return progress.step < 5 ? -1000.0 : -4.0;
  }
  [[nodiscard]] Extremes extremes() const override { return {-1000.0, -4.0}; }
};

TEST(OutputGate, OpensWhenItsScheduleSaysSo) {
  Pool pool;
  const TinyBatch batch = tiny_batch(pool, {{20}});
  const Model closed(pool, gated("MKF", -1000.0), 1);
  const Model open(pool, gated("MKF", -4.0), 1);
  ModelConfig config = gated("MKF", -4.0);
  dynamic_cast<WorkspaceConfig&>(config.section("workspace")).gate.output_gate_bias =
      Scheduled("opening", std::make_shared<OpeningAtStep5>());
  const Model staged(pool, config, 1);
  const auto at_step = [&](const Model& model, int64_t step) {
    Tape tape(pool);
    const NoGrad no_grad(tape);
    RoutingSession session = testing_support::plain_session(model);
    ForwardContext context = testing_support::training_context(tape, batch, session);
    context.progress.step = step;
    return model.forward(context, batch.tokens).hidden.detached();
  };
  EXPECT_TRUE(same_bits(at_step(staged, 4), at_step(closed, 0)));
  EXPECT_TRUE(same_bits(at_step(staged, 5), at_step(open, 0)));
  EXPECT_FALSE(same_bits(at_step(open, 0), at_step(closed, 0)));
}

TEST(OutputGate, LetsThroughWhatItsSigmoidSays) {
  Pool pool;
  InitConfig init;
  OutputGateConfig config{.output_gate = true, .output_gate_bias = -1.0};
  const OutputGate gate(Builder(pool, DType::f64, 1, init, 1), 2, config);
  ASSERT_EQ(gate.parameters().size(), 2U);
  gate.parameters()[0]->value.copy_from(Tensor::of<double>(pool, {1, 2}, {2.0, 0.5}));
  gate.parameters()[1]->value.copy_from(Tensor::of<double>(pool, {1}, {0.25}));
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const SequenceLayout layout = SequenceLayout::single(pool, 2);
  const ForwardContext context{tape, layout};
  const Tensor x = Tensor::of<double>(pool, {2, 2}, {1.0, -2.0, 0.0, 1.0});
  const Tensor y = Tensor::of<double>(pool, {2, 2}, {4.0, 8.0, -1.0, 3.0});
  const Tensor gated_y = gate.apply(context, x, y);
  const auto sigmoid = [](double z) { return 1.0 / (1.0 + std::exp(-z)); };
  const double open[] = {sigmoid(2.0 - 1.0 + 0.25 - 1.0), sigmoid(0.5 + 0.25 - 1.0)};
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(gated_y.data<double>()[i], open[i / 2] * y.data<double>()[i], 1e-15);
  }
}

}  // namespace
}  // namespace sluice
