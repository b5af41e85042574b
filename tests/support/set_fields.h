#pragma once
// Sets the fields of a config in a test of a room that knows no YAML.
//
//   using namespace nlohmann::literals;
//   set_fields(config, R"({"peak": 1.0, "warmup": "100 steps"})"_json);

#include <nlohmann/json.hpp>

#include "autograd/support/fields.h"

namespace sluice::testing {

/// Sets each named field from its JSON value: numbers, booleans and strings as they are; durations
/// as their text; an optional's absent word as its string; objects and unions as objects. Ranges
/// are not checked. Throws InternalError for a key that the config does not have, nlohmann's
/// exception for a wrong type.
void set_fields(Configurable& config, const nlohmann::json& values);

}  // namespace sluice::testing
