#include "layers/mixers/mixture_of_heads.h"

#include "layers/routers/top_k.h"
#include "tests/layers/mixers/memory_checks.h"

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
  for (const ModelConfig& config : variants("HFH")) expect_sound(config);
}

/// Attention of the same four heads with these projections; `left_out` heads add nothing.
void expect_attention_without(const ModelConfig& config, const std::vector<int64_t>& left_out) {
  Pool pool;
  const Model mixture(pool, config, 1);
  ModelConfig plain = tiny_config(config.pattern == "H" ? "A" : "AF", config.dtype);
  attention_of(plain).num_kv_heads = 4;
  const Model attention(pool, plain, 1);
  for (Parameter* parameter : mixture.parameters()) {
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
  expect_close(evaluated_hidden(pool, mixture, batch), evaluated_hidden(pool, attention, batch),
               1e-13);
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
