#include "layers/mixers/attention_mixture.h"

#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::attention_of;
using testing_support::expect_a_sound_layer;
using testing_support::hidden_of;
using testing_support::relative_distance;
using testing_support::tiny_batch;
using testing_support::tiny_config;

ModelConfig small(const std::string& pattern, const std::string& dtype, int64_t experts,
                  bool share_keys) {
  ModelConfig config = tiny_config(pattern, dtype);
  auto& mixture = dynamic_cast<AttentionMixtureConfig&>(config.section("attention_mixture"));
  mixture.num_experts = experts;
  mixture.share_keys = share_keys;
  mixture.num_heads = 4;
  mixture.num_kv_heads = 2;
  mixture.max_position_embeddings = 256;
  return config;
}

TEST(AttentionMixture, IsASoundMixer) {
  for (const bool share_keys : {false, true}) {
    expect_a_sound_layer(small("UFU", "f32", 3, share_keys));
  }
}

Tensor value(const Model& model, const std::string& name) {
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name == name) return parameter->value;
  }
  throw InternalError("no parameter " + name);
}

/// Rows `from` of one matrix to rows `to` of another, `count` of them.
void copy_rows(const Tensor& source, int64_t from, const Tensor& target, int64_t to,
               int64_t count) {
  const int64_t width = source.dim(1);
  ASSERT_EQ(target.dim(1), width);
  const auto rows = source.span<double>().subspan(static_cast<size_t>(from * width),
                                                  static_cast<size_t>(count * width));
  Tensor out = target;
  std::ranges::copy(rows, out.span<double>().begin() + to * width);
}

TEST(AttentionMixture, OfIdenticalExpertsIsAttention) {
  // Weights that sum to 1, whatever the router says. Two key heads of width 8, two query heads each.
  Pool pool;
  const Model seed(pool, tiny_config("AF", "f64"), 1);
  const Tensor expected = hidden_of(pool, seed, tiny_batch(pool, {{50, 3}}));
  for (const bool share_keys : {false, true}) {
    for (const int64_t experts : {1, 3}) {
      const Model model(pool, small("UF", "f64", experts, share_keys), 1);
      const auto mine = [&](const std::string& name) {
        return value(model, "layers.0.attention_mixture." + name);
      };
      const auto of_seed = [&](const std::string& name) {
        return value(seed, "layers.0.attention." + name);
      };
      const Tensor w_o = of_seed("w_o");  // [32, 32]
      Tensor mixed_w_o = mine("w_o");     // [32, experts * 32]
      const int64_t block = share_keys ? 2 : 4;
      for (int64_t expert = 0; expert < experts; ++expert) {
        for (int64_t head = 0; head < 4; ++head) {
          const int64_t at = head / block * block * experts + expert * block + head % block;
          copy_rows(of_seed("w_q"), head * 8, mine("w_q"), at * 8, 8);
          for (int64_t d = 0; d < 32; ++d) {
            for (int64_t p = 0; p < 8; ++p) {
              mixed_w_o.data<double>()[d * experts * 32 + at * 8 + p] =
                  w_o.data<double>()[d * 32 + head * 8 + p];
            }
          }
        }
        if (share_keys && expert > 0) continue;
        for (const char* name : {"w_k", "w_v"}) {
          copy_rows(of_seed(name), 0, mine(name), expert * 16, 16);
        }
      }
      EXPECT_LE(relative_distance(hidden_of(pool, model, tiny_batch(pool, {{50, 3}})), expected),
                1e-13)
          << experts << (share_keys ? " that share keys" : "");
    }
  }
}

TEST(AttentionMixture, KeepsOneCacheWhereKeysAreShared) {
  for (const bool share_keys : {false, true}) {
    Pool pool;
    const ModelConfig config = small("U", "f32", 4, share_keys);
    const Model model(pool, config, 1);
    const int64_t before = pool.in_use().total();
    const DecodeState state = model.start_decoding(pool, 1024);
    EXPECT_EQ(pool.in_use().total() - before, 1024 * 2 * 2 * 8 * 4 * (share_keys ? 1 : 4));
  }
}

TEST(AttentionMixture, RefusesANormOverAllExperts) {
  AttentionMixtureConfig config;
  config.qk_norm = "full";
  EXPECT_TRUE(config.check().starts_with("qk_norm: found full"));
}

}  // namespace
}  // namespace sluice
