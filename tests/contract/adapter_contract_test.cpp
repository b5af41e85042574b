// What every adapter must do, by standing in adapters.def: start with the function of the model without
// it, have the right gradients, keep packed documents apart, decode as it evaluates, give the same bits on
// any number of threads and with recomputation, and merge or say why not. What it must do in a run is in
// method_in_run_test.cpp.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/layers/adapters/adapted_models.h"

namespace sluice {
namespace {

using testing_support::adapted_config;
using testing_support::copy_weights;
using testing_support::expect_near;
using testing_support::hidden_values;
using testing_support::Json;
using testing_support::tiny_config;

class EveryAdapter : public ::testing::TestWithParam<std::string> {
 protected:
  [[nodiscard]] static ModelConfig config(double b_std, const std::string& dtype,
                                          const Json& more = Json::object()) {
    Json fields = {{"linears", {"attention.q", "attention.k", "attention.o", "feed_forward.up"}},
                   {"b_std", b_std}};
    fields.update(more);
    return adapted_config(GetParam(), fields, dtype);
  }
};

TEST_P(EveryAdapter, IsASoundLayer) {
  testing_support::expect_a_sound_layer_forward(config(0.3, "f64"));
  // Chosen hard and taught soft is one function only where all experts are chosen.
  const bool is_taught_soft = GetParam() == "lora_mixer";
  testing_support::expect_model_gradients(config(
      0.3, "f64", is_taught_soft ? Json{{"num_experts", 3}, {"top_k", 3}} : Json::object()));
}

TEST_P(EveryAdapter, StartsWithTheFunctionOfTheModelWithoutIt) {
  Pool pool;
  for (const char* dtype : {"f32", "f64"}) {
    const Model plain(pool, tiny_config("AF", dtype), 1);
    const Model adapted(pool, config(0.0, dtype), 1);
    const Model changed(pool, config(0.3, dtype), 1);
    EXPECT_GT(adapted.parameters().size(), plain.parameters().size());
    const std::vector<double> before = hidden_values(pool, plain);
    expect_near(hidden_values(pool, adapted), before, std::string(dtype) == "f64" ? 1e-12 : 1e-5);
    EXPECT_NE(hidden_values(pool, changed), before);
  }
}

TEST_P(EveryAdapter, MergesIntoTheMatrixOrSaysWhyNot) {
  Pool pool;
  const Model adapted(pool, config(0.3, "f64"), 1);
  const Model plain(pool, tiny_config("AF", "f64"), 2);
  copy_weights(adapted, plain);
  ASSERT_EQ(adapted.adapted_linears().size(), 4U);
  size_t merged = 0;
  for (const AdaptedLinear& linear : adapted.adapted_linears()) {
    Parameter& weight = testing_support::parameter_of(plain, linear.weight->name);
    const auto values = weight.value.span<double>();
    const std::vector<double> before(values.begin(), values.end());
    const std::string why_not = linear.adapter->merge_into(values);
    if (why_not.empty()) ++merged;
    EXPECT_EQ(why_not.empty(), !std::ranges::equal(values, before)) << why_not;
  }
  if (merged == 0) return;
  ASSERT_EQ(merged, 4U);
  expect_near(hidden_values(pool, plain), hidden_values(pool, adapted), 1e-11);
}

std::vector<std::string> adapter_names() {
  std::vector<std::string> names;
  for (const Choice& choice : adapter_choices()) names.emplace_back(choice.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(DefLists, EveryAdapter, ::testing::ValuesIn(adapter_names()),
                         [](const auto& which) { return which.param; });

/// Symbol of a layer, name of one of its linear maps.
using Map = std::pair<std::string, std::string>;

/// Linear maps of every mixer and feed-forward that multiply tokens by one matrix.
class EveryAdaptableLayer : public ::testing::TestWithParam<Map> {};

TEST_P(EveryAdaptableLayer, CarriesAdaptersThatRoute) {
  const auto& [symbol, linear] = GetParam();
  ModelConfig config = tiny_config("F" + symbol, "f64");
  config.hidden_size = 64;
  config.adapters = {{"a", testing_support::adapter(
                               "mola", {{"linears", {linear}}, {"rank", 2}, {"b_std", 0.3}})}};
  ASSERT_EQ(config.check(), "");
  EXPECT_EQ(config.routed_layers().size(), symbol == "F" ? 2U : 1U);
  testing_support::expect_model_gradients(config);
  testing_support::expect_documents_apart(config);
  testing_support::expect_decoding_equals_forward(config, 1e-11);
}

INSTANTIATE_TEST_SUITE_P(Maps, EveryAdaptableLayer,
                         ::testing::Values(Map("F", "feed_forward.gate"),
                                           Map("F", "feed_forward.down"), Map("A", "attention.v"),
                                           Map("C", "latent_attention.kv_a"),
                                           Map("M", "mamba2.xbc"), Map("M", "mamba2.out"),
                                           Map("S", "mamba1.u"), Map("G", "gated_delta_net.q"),
                                           Map("L", "linear_attention.o")),
                         [](const auto& which) {
                           std::string name = which.param.second;
                           std::ranges::replace(name, '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace sluice
