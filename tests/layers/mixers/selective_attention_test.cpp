#include "layers/mixers/selective_attention.h"

#include "layers/routers/top_k.h"
#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::attention_of;
using testing_support::expect_a_sound_layer;
using testing_support::gradients_of;
using testing_support::hidden_of;
using testing_support::relative_distance;
using testing_support::tiny_batch;
using testing_support::tiny_config;

ModelConfig small(const std::string& pattern, const std::string& dtype, double top_k,
                  bool gate_output = true) {
  ModelConfig config = tiny_config(pattern, dtype);
  auto& selective = dynamic_cast<SelectiveAttentionConfig&>(config.section("selective_attention"));
  selective.num_experts = 4;
  selective.top_k = top_k;
  selective.max_position_embeddings = 256;
  selective.gate_output = gate_output;
  return config;
}

TEST(SelectiveAttention, IsASoundMixer) { expect_a_sound_layer(small("XFX", "f32", 2.0)); }

TEST(SelectiveAttention, IsASoundMixerWithoutRotation) {
  expect_a_sound_layer([] {
    ModelConfig config = small("XFX", "f32", 1.0);
    dynamic_cast<SelectiveAttentionConfig&>(config.section("selective_attention")).rope_theta =
        std::nullopt;
    return config;
  }());
}

Tensor value(const Model& model, const std::string& name) {
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name == name) return parameter->value;
  }
  throw InternalError("no parameter " + name);
}

TEST(SelectiveAttention, OfAllHeadsWithoutGatesIsMultiHeadAttention) {
  Pool pool;
  ModelConfig plain = tiny_config("AF", "f64");
  attention_of(plain).num_kv_heads = 4;
  const Model expected(pool, plain, 1);
  const Model model(pool, small("XF", "f64", 4.0, /*gate_output=*/false), 1);
  for (const std::string name : {"w_q", "w_k", "w_v"}) {
    Tensor stack = value(model, "layers.0.selective_attention." + name);  // [4, 8, 32]
    stack.copy_from(value(expected, "layers.0.attention." + name).reshaped({4, 8, 32}));
  }
  const Tensor w_o = value(expected, "layers.0.attention.w_o");     // [32, 4 * 8]
  Tensor stack = value(model, "layers.0.selective_attention.w_o");  // [4, 32, 8]
  for (int64_t head = 0; head < 4; ++head) {
    for (int64_t d = 0; d < 32; ++d) {
      for (int64_t p = 0; p < 8; ++p) {
        stack.data<double>()[(head * 32 + d) * 8 + p] = w_o.data<double>()[d * 32 + head * 8 + p];
      }
    }
  }
  const auto batch = tiny_batch(pool, {{50, 3}, {20}});
  EXPECT_LE(relative_distance(hidden_of(pool, model, batch), hidden_of(pool, expected, batch)),
            1e-13);
}

TEST(SelectiveAttention, TeachesItsRouterByTheGatesOnly) {
  for (const bool gate_output : {false, true}) {
    Pool pool;
    const Model model(pool, small("XF", "f64", 2.0, gate_output), 1);
    const auto gradients = gradients_of(pool, model, tiny_batch(pool, {{30, 9}}));
    const auto parameters = model.parameters();
    for (size_t p = 0; p < parameters.size(); ++p) {
      if (parameters[p]->kind != ParameterKind::router) continue;
      double size = 0.0;
      for (const double g : gradients.of[p].span<double>()) size += std::abs(g);
      EXPECT_EQ(size > 0.0, gate_output);
    }
  }
}

}  // namespace
}  // namespace sluice
