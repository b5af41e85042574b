#include "layers/mixers/mixture_of_heads.h"

#include <functional>

#include "layers/routers/top_k.h"
#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using namespace testing_support;

MixtureOfHeadsConfig& section_of(ModelConfig& config) {
  return dynamic_cast<MixtureOfHeadsConfig&>(config.section("mixture_of_heads"));
}

/// Four heads of 8, of which some are shared.
ModelConfig config_of(int64_t shared, double chosen, const std::string& pattern = "HF") {
  ModelConfig config = tiny_config(pattern);
  section_of(config).num_shared_heads = shared;
  section_of(config).num_experts = 4 - shared;
  section_of(config).top_k = chosen;
  if (chosen == 1.0) {
    dynamic_cast<TopKRouterConfig&>(*section_of(config).router.config).weights = "as_is";
  }
  return config;
}

std::vector<ModelConfig> variants(const std::string& pattern = "HF") {
  std::vector<ModelConfig> result = {config_of(0, 2.0, pattern), config_of(1, 2.0, pattern),
                                     config_of(2, 1.0, pattern)};
  section_of(result[1]).num_kv_heads = 2;
  section_of(result[1]).window = 20;
  section_of(result[2]).rope_theta = {};
  return result;
}

TEST(MixtureOfHeads, IsASoundMixer) {
  for (const ModelConfig& config : variants("HFH")) expect_a_sound_layer(config);
}

/// Attention of the same four heads with these projections; `left_out` heads add nothing.
/// `prepare` changes parameters of both beforehand.
void expect_attention_without(
    const ModelConfig& config, const std::vector<int64_t>& left_out,
    const std::function<void(Parameter&)>& prepare = [](Parameter&) {}) {
  Pool pool;
  const Model mixture(pool, config, 1);
  ModelConfig plain = tiny_config(config.pattern == "H" ? "A" : "AF", config.dtype);
  attention_of(plain).num_kv_heads = 4;
  const Model attention(pool, plain, 1);
  for (Parameter* parameter : mixture.parameters()) {
    prepare(*parameter);
    const bool gates = parameter->name.ends_with("router.weight") ||
                       parameter->name.ends_with("w_shared") ||
                       parameter->name.ends_with("w_balance");
    if (gates) {
      parameter->value.fill_zero();
      continue;
    }
    const std::string own = "mixture_of_heads.";
    std::string name = parameter->name;
    if (const size_t at = name.find(own); at != std::string::npos) {
      name.replace(at, own.size(), "attention.");
    }
    bool found = false;
    for (Parameter* target : attention.parameters()) {
      if (target->name != name) continue;
      found = true;
      target->value.copy_from(parameter->value);
      if (!name.ends_with("w_o")) continue;
      for (const int64_t head : left_out) {
        for (int64_t i = 0; i < 32 * 8; ++i) {
          target->value.data<double>()[i / 8 * 32 + head * 8 + i % 8] = 0.0;
        }
      }
    }
    ASSERT_TRUE(found) << name;
  }
  const TinyBatch batch = tiny_batch(pool, {{40, 9}, {17}});
  expect_close(hidden_of(pool, mixture, batch, /*training=*/false),
               hidden_of(pool, attention, batch, /*training=*/false), 1e-13);
}

TEST(MixtureOfHeads, OfAllHeadsAlikeIsAttention) {
  for (const int64_t shared : {0, 1, 2}) {
    ModelConfig config = config_of(shared, static_cast<double>(4 - shared), "H");
    config.dtype = "f64";
    expect_attention_without(config, {});
  }
}

TEST(MixtureOfHeads, OfSomeHeadsAlikeLeavesTheOthersOut) {
  // Equal scores choose the lower heads, each with gate 1.
  ModelConfig config = config_of(1, 2.0, "H");
  config.dtype = "f64";
  expect_attention_without(config, {3});
  config = config_of(0, 2.0, "H");
  config.dtype = "f64";
  expect_attention_without(config, {2, 3});
}

/// Heads that are chosen by their queries.
ModelConfig by_query_norm(int64_t shared, double chosen, const std::string& pattern = "HF") {
  ModelConfig config = config_of(shared, chosen, pattern);
  section_of(config).gates = MixtureOfHeadsConfig::Gates::query_norm;
  return config;
}

TEST(MixtureOfHeads, ByQueryNormIsASoundMixerToo) {
  // But for the gradients, which go straight through the choice (query_norm_test.cpp).
  for (const ModelConfig& config : {by_query_norm(0, 2.0, "HFH"), by_query_norm(2, 1.0, "HFH")}) {
    expect_documents_apart(config);
    expect_causal(config);
    expect_decoding_equals_forward(config, 1e-5);
    ModelConfig exact = config;
    exact.dtype = "f64";
    expect_decoding_equals_forward(exact, 1e-12);
    expect_same_on_any_threads(config);
    expect_recomputation_changes_no_bit(config);
    expect_shapes_to_tell_the_memory(config);
  }
}

TEST(MixtureOfHeads, ByQueryNormHasTheParametersOfAttentionAlone) {
  Pool pool;
  for (const int64_t shared : {0, 2}) {
    const Model model(pool, by_query_norm(shared, 2.0, "H"), 1);
    for (const Parameter* parameter : model.parameters()) {
      EXPECT_NE(parameter->kind, ParameterKind::router) << parameter->name;
    }
    // All heads chosen, the weights of all are 1: attention, without any weight set to 0.
    ModelConfig all = by_query_norm(shared, static_cast<double>(4 - shared), "H");
    all.dtype = "f64";
    expect_attention_without(all, {});
  }
}

TEST(MixtureOfHeads, ByQueryNormLeavesOutHeadsOfShortQueries) {
  ModelConfig config = by_query_norm(1, 2.0, "H");
  config.dtype = "f64";
  expect_attention_without(config, {2}, [](Parameter& parameter) {
    if (!parameter.name.ends_with("w_q")) return;
    // The third head, the second of the routed ones.
    for (int64_t i = 16 * 32; i < 24 * 32; ++i) parameter.value.data<double>()[i] *= 1e-3;
  });
}

TEST(MixtureOfHeads, RefusesWhatCannotBe) {
  ModelConfig config = tiny_config("H");
  section_of(config).num_experts = 3;
  section_of(config).num_shared_heads = 2;
  EXPECT_EQ(
      config.check(),
      "mixture_of_heads.num_routed_heads: found 3, with 2 shared heads 5 in all, allowed what "
      "divides hidden_size (32) into heads of even width, or give head_dim");
  section_of(config).num_kv_heads = 2;
  EXPECT_EQ(section_of(config).check(),
            "num_kv_heads: found 2, allowed a divisor of all heads (5)");
}

}  // namespace
}  // namespace sluice
