#include "layers/mixers/gated_delta_net.h"

#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using namespace testing_support;

ModelConfig config_of(const std::string& pattern = "GF") {
  ModelConfig config = tiny_config(pattern);
  auto& section = dynamic_cast<GatedDeltaNetConfig&>(config.section("gated_delta_net"));
  section.heads.num_heads = 2;
  section.heads.head_dim = 8;
  section.heads.expand_v = 1.5;
  return config;
}

TEST(GatedDeltaNet, NamesItsParameters) {
  Pool pool;
  const Model model(pool, config_of("G"), 1);
  std::vector<std::string> names;
  for (const Parameter* parameter : model.parameters()) names.push_back(parameter->name);
  const std::string own = "layers.0.gated_delta_net.";
  const std::vector<std::string> expected = {"embedding.weight",    "layers.0.norm.weight",
                                             own + "w_q",           own + "q_conv.weight",
                                             own + "k_conv.weight", own + "v_conv.weight",
                                             own + "A_log",         own + "dt_bias",
                                             own + "norm",          own + "w_gate",
                                             own + "w_o",           own + "w_k",
                                             own + "w_v",           own + "w_a",
                                             own + "w_b",           "final_norm.weight"};
  EXPECT_EQ(names, expected);
}

TEST(GatedDeltaNet, StartsWithThePublishedDecays) {
  ModelConfig config = config_of("G");
  auto& section = dynamic_cast<GatedDeltaNetConfig&>(config.section("gated_delta_net"));
  section.heads.num_heads = 400;
  Pool pool;
  const Model model(pool, config, 1);
  for (const Parameter* parameter : model.parameters()) {
    double sum = 0.0;
    if (parameter->name.ends_with("A_log")) {
      for (const float a : parameter->value.span<float>()) {
        ASSERT_LT(a, std::log(16.0));
        sum += std::exp(static_cast<double>(a)) / 400;
      }
      EXPECT_NEAR(sum, 8.0, 0.7);  // three standard errors of a mean of U(0, 16)
    }
    if (parameter->name.ends_with("dt_bias")) {
      for (const float b : parameter->value.span<float>()) {
        const double step = std::log1p(std::exp(static_cast<double>(b)));
        ASSERT_TRUE(step > 0.999e-3 && step < 0.1001) << step;
        sum += std::log(step) / 400;
      }
      EXPECT_NEAR(sum, std::log(1e-2), 0.2);
    }
  }
}

TEST(GatedDeltaNet, IsASoundMixer) { expect_a_sound_layer(config_of("GFG")); }

TEST(GatedDeltaNet, DecodesAtConstantMemory) { expect_constant_decoding_memory(config_of("GFGF")); }

TEST(GatedDeltaNet, RefusesWhatCannotBe) {
  ModelConfig config = tiny_config("G");
  auto& section = dynamic_cast<GatedDeltaNetConfig&>(config.section("gated_delta_net"));
  section.heads.num_heads = 5;
  EXPECT_EQ(config.check(),
            "gated_delta_net.num_heads: found 5, allowed a divisor of hidden_size (32), or give "
            "head_dim");
  section.heads.num_heads = 4;
  section.heads.expand_v = 0.3;
  EXPECT_EQ(config.check(),
            "gated_delta_net.expand_v: found 0.3, allowed what makes head_dim (8) times it whole");
}

}  // namespace
}  // namespace sluice
