#include "layers/mixers/mamba2.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::tiny_config;

Mamba2Config& mamba_of(ModelConfig& config) {
  return dynamic_cast<Mamba2Config&>(config.section("mamba2"));
}

/// Four heads of 16 in two groups, chunks of 16.
ModelConfig mamba_config(const std::string& pattern, const std::string& dtype = "f32") {
  ModelConfig config = tiny_config(pattern, dtype);
  Mamba2Config& mamba = mamba_of(config);
  mamba.head_dim = 16;
  mamba.num_groups = 2;
  mamba.state_size = 12;
  mamba.chunk_size = 16;
  return config;
}

/// The options that change what is computed.
std::vector<ModelConfig> variants() {
  // Copies of a config share their sections: each is made anew.
  std::vector<ModelConfig> result;
  const auto add = [&](auto&& change) {
    result.push_back(mamba_config("MFAM"));
    change(mamba_of(result.back()));
  };
  add([](Mamba2Config&) {});
  add([](Mamba2Config& mamba) {
    mamba.norm_before_gate = true;
    mamba.norm_group_size = 64;
  });
  add([](Mamba2Config& mamba) {
    mamba.time_step_limit = {0.02, 0.05};
    mamba.conv_kernel = 2;
    mamba.conv_bias = false;
  });
  add([](Mamba2Config& mamba) {
    mamba.ssm_size = 32;
    mamba.num_groups = 1;
  });
  add([](Mamba2Config& mamba) { mamba.D_per_channel = true; });
  return result;
}

Parameter& find(const Model& model, const std::string& name) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name == name) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

TEST(Mamba2, IsASoundLayer) {
  for (const ModelConfig& config : variants()) testing_support::expect_a_sound_layer(config);
}

TEST(Mamba2, SeesAllEarlierTokens) {
  testing_support::expect_all_earlier_tokens_seen(mamba_config("MF"));
}

TEST(Mamba2, ComputesTheSameInChunksOfAnySize) {
  Pool pool;
  const auto batch = testing_support::tiny_batch(pool, {{90}});
  Tensor expected;
  for (const int64_t chunk : {1, 7, 16, 64, 1000}) {
    ModelConfig config = mamba_config("MM", "f64");
    mamba_of(config).chunk_size = chunk;
    const Tensor hidden = testing_support::hidden_of(pool, Model(pool, config, 1), batch);
    if (!expected.defined()) expected = hidden;
    testing_support::expect_close(hidden, expected, 1e-12);
  }
}

TEST(Mamba2, DecodesAtConstantMemory) {
  testing_support::expect_constant_decoding_memory(mamba_config("MM"));
}

TEST(Mamba2, StartsAsItsAuthorsSay) {
  Pool pool;
  ModelConfig config = mamba_config("MFMF", "f64");
  mamba_of(config).head_dim = 1;
  mamba_of(config).num_groups = 1;
  const Model model(pool, config, 1);
  const auto range = [&](const std::string& name) {
    const Tensor& value = find(model, "layers.0.mamba2." + name).value;
    double low = element(value, 0);
    double high = low;
    for (int64_t i = 0; i < value.numel(); ++i) {
      low = std::min(low, element(value, i));
      high = std::max(high, element(value, i));
    }
    return std::pair(low, high);
  };
  const auto expect_within = [&](const std::string& name, double low, double high) {
    const auto [smallest, largest] = range(name);
    EXPECT_GE(smallest, low) << name;
    EXPECT_LE(largest, high) << name;
    EXPECT_GT(largest - smallest, 0.7 * (high - low)) << name << " does not fill its range";
  };
  const StepSizeConfig steps;
  EXPECT_NEAR(StepSizeConfig({.smallest = 0.01, .largest = 0.01}).bias(0.5), -4.600166019, 1e-9);
  expect_within("dt_bias", steps.bias(0.0), steps.bias(1.0));
  expect_within("A_log", 0.0, std::log(16.0));
  EXPECT_EQ(range("D"), std::pair(1.0, 1.0));
  EXPECT_EQ(range("norm"), std::pair(1.0, 1.0));
  const auto expect_bound = [&](const std::string& name, double bound) {
    expect_within(name, -bound, bound);
  };
  for (const char* name : {"w_z", "w_xbc", "w_dt"}) expect_bound(name, 1.0 / std::sqrt(32.0));
  expect_bound("conv.weight", 0.5);
  expect_bound("conv.bias", 0.5);
  expect_bound("w_out", 1.0 / std::sqrt(64.0) / std::sqrt(4.0));  // four sublayers
}

TEST(Mamba2, HasTheParametersOfItsFormulaAndKeepsTheStateSpaceFromDecaying) {
  Pool pool;
  const Model model(pool, mamba_config("MF"), 1);
  int64_t count = 0;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name.starts_with("layers.0.")) count += parameter->value.numel();
  }
  constexpr int64_t d = 32, E = 64, G = 2, N = 12, K = 4, H = 4;
  EXPECT_EQ(count, d * (2 * E + 2 * G * N + H) + (E + 2 * G * N) * (K + 1) + 3 * H + E + E * d + d);
  for (const char* name : {"A_log", "D", "dt_bias"}) {
    EXPECT_EQ(find(model, std::string("layers.0.mamba2.") + name).kind, ParameterKind::bias);
  }
}

TEST(Mamba2, MayHaveASkipForEachChannel) {
  // Equal within a head, the skips are those of the head.
  Pool pool;
  const Model by_head(pool, mamba_config("MF", "f64"), 1);
  ModelConfig config = mamba_config("MF", "f64");
  mamba_of(config).D_per_channel = true;
  const Model by_channel(pool, config, 1);
  Tensor& of_heads = find(by_head, "layers.0.mamba2.D").value;
  Tensor& of_channels = find(by_channel, "layers.0.mamba2.D").value;
  ASSERT_EQ(of_channels.shape(), (Shape{64}));
  for (int64_t head = 0; head < 4; ++head) {
    of_heads.data<double>()[head] = 0.5 + static_cast<double>(head);
  }
  for (int64_t c = 0; c < 64; ++c) {
    of_channels.data<double>()[c] = of_heads.data<double>()[c / 16];
  }
  const auto batch = testing_support::tiny_batch(pool, {{50}});
  const Tensor hidden = testing_support::hidden_of(pool, by_channel, batch);
  testing_support::expect_close(hidden, testing_support::hidden_of(pool, by_head, batch), 1e-12);
  of_channels.data<double>()[3] += 1.0;
  const Tensor changed = testing_support::hidden_of(pool, by_channel, batch);
  EXPECT_FALSE(testing_support::same_bits(changed, hidden));
}

TEST(Mamba2, RefusesWidthsThatDoNotFit) {
  const auto problem = [](auto&& change) {
    ModelConfig config = mamba_config("MF");
    change(mamba_of(config));
    return config.check();
  };
  EXPECT_EQ(problem([](Mamba2Config&) {}), "");
  EXPECT_EQ(problem([](Mamba2Config& c) { c.head_dim = 24; }),
            "mamba2.head_dim: found 24, allowed a divisor of the inner width (64)");
  EXPECT_EQ(problem([](Mamba2Config& c) { c.num_groups = 3; }),
            "mamba2.num_groups: found 3, allowed a divisor of the number of heads (4)");
  EXPECT_EQ(problem([](Mamba2Config& c) { c.expand = 1.33; }),
            "mamba2.expand: found 1.33, allowed what makes hidden_size (32) times it whole");
  EXPECT_EQ(problem([](Mamba2Config& c) { c.norm_group_size = 48; }),
            "mamba2.norm_group_size: found 48, allowed a divisor of the inner width (64)");
  EXPECT_EQ(problem([](Mamba2Config& c) { c.ssm_size = 128; }),
            "mamba2.ssm_size: found 128, allowed 1 to 64 (expand times hidden_size)");
  Mamba2Config config;
  config.time_step_limit = {0.5, 0.1};
  EXPECT_EQ(
      config.check(),
      "time_step_limit: found [0.5, 0.1], allowed two increasing numbers, or [] for no limit");
}

}  // namespace
}  // namespace sluice
