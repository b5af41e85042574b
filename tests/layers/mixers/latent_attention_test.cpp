#include "layers/mixers/latent_attention.h"

#include <cmath>

#include "autograd/ops/causal_attention.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "layers/rotary.h"
#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::expect_a_sound_layer;
using testing_support::gradients_of;
using testing_support::relative_distance;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

LatentAttentionConfig& latent_of(ModelConfig& config) {
  return dynamic_cast<LatentAttentionConfig&>(config.section("latent_attention"));
}

ModelConfig small(const std::string& dtype) {
  ModelConfig config = tiny_config("CFC", dtype);
  LatentAttentionConfig& latent = latent_of(config);
  latent.num_heads = 3;
  latent.kv_lora_rank = 10;
  latent.qk_nope_head_dim = 6;
  latent.qk_rope_head_dim = 4;
  latent.v_head_dim = 5;
  latent.max_position_embeddings = 256;
  return config;
}

TEST(LatentAttention, IsASoundMixer) { expect_a_sound_layer(small("f32")); }

TEST(LatentAttention, IsASoundMixerWithAQueryLatentAndYarn) {
  expect_a_sound_layer([] {
    ModelConfig config = small("f32");
    latent_of(config).q_lora_rank = 7;
    auto scaling = std::make_shared<RopeScalingConfig>();
    scaling->type = "yarn";
    scaling->factor = 8.0;
    scaling->original_max_position_embeddings = 32;
    latent_of(config).rope_scaling = scaling;
    return config;
  }());
}

TEST(LatentAttention, IsASoundMixerWithoutRotation) {
  expect_a_sound_layer([] {
    ModelConfig config = small("f32");
    latent_of(config).qk_rope_head_dim = 0;
    return config;
  }());
}

/// The mixer alone, as the model makes it, with its parameters by name.
struct Alone {
  explicit Alone(const ModelConfig& config)
      : mixer(latent_attention_mixer.make(Builder(pool, DType::f64, 1, config.init, 1), config,
                                          config.section("latent_attention"), {})) {}
  Tensor value(const std::string& name) const {
    for (const Parameter* parameter : mixer->parameters()) {
      if (parameter->name == "latent_attention." + name) return parameter->value;
    }
    throw InternalError("no parameter " + name);
  }
  Tensor forward(Tape& tape, const Tensor& x, const SequenceLayout& layout) const {
    BlockState state;
    return mixer->forward(ForwardContext{tape, layout}, x, state);
  }
  Pool pool;
  std::unique_ptr<Mixer> mixer;
};

TEST(LatentAttention, HasDeepSeeksParametersByTheirCount) {
  // d rq + rq + rq H (dn + dr) + d (rc + dr) + rc + rc H (dn + dv) + H dv d
  ModelConfig config = small("f64");
  latent_of(config).q_lora_rank = 7;
  const Alone alone(config);
  int64_t count = 0;
  std::vector<std::string> names;
  for (const Parameter* parameter : alone.mixer->parameters()) {
    count += parameter->value.numel();
    names.push_back(parameter->name.substr(std::string("latent_attention.").size()));
  }
  EXPECT_EQ(count, 32 * 7 + 7 + 7 * 3 * 10 + 32 * 14 + 10 + 10 * 3 * 11 + 3 * 5 * 32);
  const std::vector<std::string> expected = {"w_q_a",     "q_a_norm", "w_q_b", "w_kv_a",
                                             "kv_a_norm", "w_kv_b",   "w_o"};
  EXPECT_EQ(names, expected);
}

TEST(LatentAttention, KeepsItsLatentAndOneRotatedKeyPerToken) {
  const ModelConfig config = small("f32");
  Alone alone(config);
  Pool pool;
  const auto state = alone.mixer->make_state(pool, DType::f32, 1024);
  EXPECT_EQ(pool.in_use().total(), 1024 * (10 + 4) * 4);
  EXPECT_EQ(state->length(), 0);
}

TEST(LatentAttention, WithEqualHeadsAndNoRotationIsMultiQueryAttention) {
  ModelConfig config = small("f64");
  latent_of(config).qk_rope_head_dim = 0;
  const Alone alone(config);
  Pool pool;
  Tensor w_kv_b = alone.value("w_kv_b");  // [3 (6 + 5), 10]
  for (int64_t i = 110; i < 330; ++i) w_kv_b.data<double>()[i] = w_kv_b.data<double>()[i - 110];
  const SequenceLayout layout = SequenceLayout::single(pool, 21);
  const Tensor x = SampleFactory(pool, DType::f64, 5).uniform({21, 32});
  Tape tape(pool);
  const NoGrad no_grad(tape);
  const Tensor y = alone.forward(tape, x, layout);

  const Tensor c =
      rms_norm(tape, linear(tape, x, alone.value("w_kv_a")), alone.value("kv_a_norm"), 1e-6);
  const Tensor k = reshape(tape, linear(tape, c, slice_rows(tape, w_kv_b, 0, 6)), {21, 1, 6});
  const Tensor v = reshape(tape, linear(tape, c, slice_rows(tape, w_kv_b, 6, 11)), {21, 1, 5});
  const Tensor q = reshape(tape, linear(tape, x, alone.value("w_q")), {21, 3, 6});
  const Tensor o = causal_attention(tape, q, k, v, {layout.document_offsets, 1.0 / std::sqrt(6.0)});
  const Tensor expected = linear(tape, reshape(tape, o, {21, 15}), alone.value("w_o"));
  EXPECT_LE(relative_distance(y, expected), 1e-14);
}

TEST(LatentAttention, HeadsReadTheirOwnRowsOfTheLatentsMap) {
  // With W_o of the other heads at zero, rows of W_kv_b of these heads get no gradient.
  const ModelConfig config = small("f64");
  Pool pool;
  const Model model(pool, config, 1);
  const auto all = model.parameters();
  const auto index_of = [&](const std::string& name) {
    for (size_t p = 0; p < all.size(); ++p) {
      if (all[p]->name == "layers.0.latent_attention." + name) return p;
    }
    throw InternalError("no parameter " + name);
  };
  Tensor w_o = all[index_of("w_o")]->value;  // [32, 3 * 5]
  for (int64_t i = 0; i < w_o.numel(); ++i) {
    if (i % 15 / 5 != 1) w_o.data<double>()[i] = 0.0;
  }
  const auto gradients = gradients_of(pool, model, tiny_batch(pool, {{30}}));
  const Tensor& of_map = gradients.of[index_of("w_kv_b")];  // [3 * 11, 10]
  for (int64_t head = 0; head < 3; ++head) {
    double size = 0.0;
    for (int64_t i = 0; i < 110; ++i) size += std::abs(element(of_map, head * 110 + i));
    if (head == 1) {
      EXPECT_GT(size, 0.0);
    } else {
      EXPECT_EQ(size, 0.0) << head;
    }
  }
}

TEST(LatentAttention, ScalesScoresForYarnAsDeepSeekDoes) {
  LatentAttentionConfig config;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  EXPECT_DOUBLE_EQ(config.score_scale(), 1.0 / std::sqrt(192.0));
  auto scaling = std::make_shared<RopeScalingConfig>();
  scaling->type = "yarn";
  scaling->factor = 40.0;
  config.rope_scaling = scaling;
  config.mscale_all_dim = 0.707;
  const double mscale = 0.1 * 0.707 * std::log(40.0) + 1.0;
  EXPECT_NEAR(config.score_scale(), mscale * mscale / std::sqrt(192.0), 1e-15);
  scaling->type = "linear";
  EXPECT_DOUBLE_EQ(config.score_scale(), 1.0 / std::sqrt(192.0));
}

}  // namespace
}  // namespace sluice
