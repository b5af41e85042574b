#pragma once
// A family of published models: what its config.json means, and what its tensors are called.
//
// One file in families/ and one line of families.def each. A family is a recipe's model section seen
// from elsewhere; it has no layers of its own.

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "autograd/support/registry.h"
#include "train/interchange/config_reader.h"
#include "train/interchange/name_map.h"
#include "train/recipe.h"

namespace sluice {

struct Family {
  std::string_view name;          // "model_type" of config.json
  std::string_view architecture;  // the class in "architectures"
  NameMap names;
  /// config.json as the sections `model` and, where there are experts, `balance` of a recipe. Throws
  /// CheckpointError for what the family's models may have and ours do not.
  nlohmann::ordered_json (*read)(const ConfigReader& config);
  /// The other way: all keys but the ones that every family has (config_json). Throws ConfigError,
  /// saying what of the recipe a model of this family cannot be.
  void (*write)(const Recipe& recipe, nlohmann::ordered_json& config);
  /// The tensor that holds the selection biases of routed layer {i}, in f32; empty: the family has
  /// none.
  std::string_view selection_bias = {};
  /// Layers from num_hidden_layers on belong to training alone (multi-token prediction).
  bool has_layers_of_training = false;
};

#define SLUICE_FAMILY(name) extern const Family name##_family;
#include "train/interchange/families.def"
#undef SLUICE_FAMILY

/// In the order in which `export` tries them.
[[nodiscard]] const Registry<Family>& family_registry();

}  // namespace sluice
