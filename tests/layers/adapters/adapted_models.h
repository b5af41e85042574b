#pragma once
// Small models whose linear maps carry adapters.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/layers/layer_checks.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice::testing_support {

using Json = nlohmann::json;

inline const AdapterEntry& adapter_entry(const std::string& type) {
  return adapter_registry().at(type);
}

/// An adapter of the recipe.
inline Tagged adapter(const std::string& type, const Json& fields) {
  std::shared_ptr<Configurable> settings = adapter_entry(type).make_config();
  testing::set_fields(*settings, fields);
  EXPECT_EQ(settings->check(), "");
  return {type, std::move(settings)};
}

/// The dense model "AF" with one adapter "a" of `type`.
inline ModelConfig adapted_config(const std::string& type, const Json& fields,
                                  const std::string& dtype = "f64",
                                  const std::string& pattern = "AF") {
  ModelConfig config = tiny_config(pattern, dtype);
  config.adapters = {{"a", adapter(type, fields)}};
  EXPECT_EQ(config.check(), "");
  return config;
}

inline Parameter& parameter_of(const Model& model, const std::string& name) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name.ends_with(name)) return *parameter;
  }
  throw InternalError("no parameter " + name);
}

/// Gives each parameter of `to` the values of the one of the same name and shape, where `from` has one.
inline void copy_weights(const Model& from, const Model& to) {
  for (Parameter* target : to.parameters()) {
    for (const Parameter* source : from.parameters()) {
      const bool fits =
          source->name == target->name && source->value.shape() == target->value.shape();
      if (fits) target->value.copy_from(source->value);
    }
  }
}

/// Hidden states of one batch in evaluation.
inline std::vector<double> hidden_values(Pool& pool, const Model& model,
                                         const std::vector<std::vector<int64_t>>& pack = {{7, 4}}) {
  const Tensor hidden = hidden_of(pool, model, tiny_batch(pool, pack), /*training=*/false);
  std::vector<double> values;
  for (int64_t i = 0; i < hidden.numel(); ++i) values.push_back(element(hidden, i));
  return values;
}

inline void expect_near(const std::vector<double>& actual, const std::vector<double>& expected,
                        double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], tolerance) << i;
}

}  // namespace sluice::testing_support
