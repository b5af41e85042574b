#include "layers/mixers/mamba1.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::tiny_config;

Mamba1Config& mamba_of(ModelConfig& config) {
  return dynamic_cast<Mamba1Config&>(config.section("mamba1"));
}

ModelConfig mamba_config(const std::string& pattern, const std::string& dtype = "f32",
                         bool bcdt_norm = false) {
  ModelConfig config = tiny_config(pattern, dtype);
  mamba_of(config).state_size = 5;
  mamba_of(config).bcdt_norm = bcdt_norm;
  return config;
}

Parameter& find(const Model& model, const std::string& name) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name == name) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

TEST(Mamba1, IsASoundLayer) {
  for (const bool norm : {false, true}) {
    testing_support::expect_a_sound_layer(mamba_config("SFAS", "f32", norm));
  }
}

TEST(Mamba1, SeesAllEarlierTokens) {
  testing_support::expect_all_earlier_tokens_seen(mamba_config("SF"));
}

TEST(Mamba1, DecodesAtConstantMemory) {
  testing_support::expect_constant_decoding_memory(mamba_config("SS"));
}

TEST(Mamba1, StartsAsItsAuthorsSay) {
  Pool pool;
  const Model model(pool, mamba_config("SFSF", "f64"), 1);
  const Tensor& A_log = find(model, "layers.0.mamba1.A_log").value;
  for (int64_t i = 0; i < A_log.numel(); ++i) {
    EXPECT_DOUBLE_EQ(element(A_log, i), std::log(static_cast<double>(i % 5 + 1)));
  }
  const auto largest = [&](const std::string& name) {
    const Tensor& value = find(model, "layers.0.mamba1." + name).value;
    double result = 0.0;
    for (int64_t i = 0; i < value.numel(); ++i) {
      result = std::max(result, std::abs(element(value, i)));
    }
    return result;
  };
  const auto expect_bound = [&](const std::string& name, double bound) {
    EXPECT_LE(largest(name), bound) << name;
    EXPECT_GT(largest(name), 0.9 * bound) << name;
  };
  expect_bound("w_u", 1.0 / std::sqrt(32.0));
  expect_bound("w_x", 1.0 / 8.0);
  expect_bound("w_dt", 1.0 / std::sqrt(2.0));
  expect_bound("conv.weight", 0.5);
  expect_bound("w_out", 1.0 / 8.0 / 2.0);  // four sublayers
  const StepSizeConfig steps;
  const Tensor& bias = find(model, "layers.0.mamba1.dt_bias").value;
  for (int64_t i = 0; i < bias.numel(); ++i) {
    EXPECT_GE(element(bias, i), steps.bias(0.0));
    EXPECT_LE(element(bias, i), steps.bias(1.0));
  }
}

TEST(Mamba1, HasTheParametersOfItsFormula) {
  Pool pool;
  const Model model(pool, mamba_config("SF"), 1);
  int64_t count = 0;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name.starts_with("layers.0.")) count += parameter->value.numel();
  }
  constexpr int64_t d = 32, E = 64, N = 5, K = 4, R = 2;
  EXPECT_EQ(count, 2 * d * E + E * K + E + E * (R + 2 * N) + R * E + E + E * N + E + E * d + d);
  for (const char* name : {"A_log", "D", "dt_bias"}) {
    EXPECT_EQ(find(model, std::string("layers.0.mamba1.") + name).kind, ParameterKind::bias);
  }
}

TEST(Mamba1, RefusesAWidthThatIsNotWhole) {
  ModelConfig config = mamba_config("SF");
  EXPECT_EQ(config.check(), "");
  mamba_of(config).expand = 1.33;
  EXPECT_EQ(config.check(),
            "mamba1.expand: found 1.33, allowed what makes hidden_size (32) times it whole");
}

}  // namespace
}  // namespace sluice
