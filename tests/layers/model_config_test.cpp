#include <gtest/gtest.h>

#include <functional>

#include "layers/mixers/attention.h"
#include "layers/model.h"
#include "layers/routed_layer.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::attention_of;
using testing_support::tiny_config;

/// A variant of `type`, with its default settings.
template <class Config>
Tagged variant(const std::string& type, const std::function<void(Config&)>& set) {
  auto config = std::make_shared<Config>();
  set(*config);
  return {type, config};
}

ModelConfig with_variants() {
  ModelConfig config = tiny_config("AF");
  const AttentionConfig& attention = attention_of(config);
  config.variants = {{"W", variant<AttentionConfig>("attention", [&](AttentionConfig& local) {
                        local = attention;
                        local.window = 2;
                      })}};
  config.pattern = "AFWF";
  return config;
}

TEST(ModelConfigTest, ALetterOfVariantsIsALayerWithSettingsOfItsOwn) {
  const ModelConfig config = with_variants();
  EXPECT_EQ(config.check(), "");
  const auto sublayers = config.sublayers();
  ASSERT_EQ(sublayers.size(), 4U);
  EXPECT_EQ(sublayers[0].key, "attention");
  EXPECT_EQ(sublayers[2].key, "variants.W");
  EXPECT_EQ(sublayers[2].mixer, sublayers[0].mixer);
  EXPECT_FALSE(dynamic_cast<const AttentionConfig&>(*sublayers[0].config).window);
  EXPECT_EQ(dynamic_cast<const AttentionConfig&>(*sublayers[2].config).window, 2);
  EXPECT_EQ(sublayers[1].feed_forward, sublayers[3].feed_forward);
  EXPECT_TRUE(config.routed_layers().empty());
}

TEST(ModelConfigTest, VariantsThatRouteHaveExpertsOfTheirOwn) {
  ModelConfig config = tiny_config("AE");
  config.variants = {{"P", {"moe", moe_feed_forward.make_config()}}};
  dynamic_cast<RoutingConfig&>(*config.variants[0].second.config).num_experts = 6;
  config.pattern = "AEAP";
  ASSERT_EQ(config.check(), "");
  const auto layers = config.routed_layers();
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[1]->num_experts, 6);
  Pool pool;
  const Model model(pool, config, 1);
  EXPECT_EQ(model.experts_per_layer(), (std::vector<int64_t>{layers[0]->num_experts, 6}));
  for (const Parameter* parameter : model.routed_parameters(1)) {
    EXPECT_EQ(parameter->name.rfind("layers.3.", 0), 0U) << parameter->name;
    EXPECT_EQ(parameter->value.dim(0), 6) << parameter->name;
  }
}

TEST(ModelConfigTest, RefusesLettersThatCannotBe) {
  ModelConfig config = with_variants();
  config.variants[0].first = "A";
  EXPECT_NE(config.check().find("variants: found the letter A, which stands for a layer already"),
            std::string::npos)
      << config.check();
  for (const char* name : {"x", "WW", "", "1", "("}) {
    config.variants[0].first = name;
    EXPECT_EQ(config.check(),
              fmt::format("variants: found the name \"{}\", allowed one letter (not x)", name));
  }
}

TEST(ModelConfigTest, AProblemOfAVariantNamesIt) {
  ModelConfig config = with_variants();
  auto& local = dynamic_cast<AttentionConfig&>(*config.variants[0].second.config);
  local.num_heads = 5;
  local.num_kv_heads = 5;
  EXPECT_EQ(
      config.check(),
      "variants.W.num_heads: found 5, allowed a divisor of hidden_size (32), or give head_dim");
}

}  // namespace
}  // namespace sluice
