#pragma once
// A config as a JSON Schema (draft 2020-12), by its list of fields: what editors complete and check
// recipes with.

#include <string>
#include <string_view>

#include "autograd/support/fields.h"

namespace sluice {

/// The schema of `config`, whose members hold the defaults; indented by two spaces, ending in a
/// line break, keys in the order of the field lists. A tagged union is a `oneOf` with a constant
/// `type`; a number that may be a schedule refers to `#/$defs/schedule`. What spans several fields
/// (check()) is beyond a schema.
[[nodiscard]] std::string write_json_schema(Configurable& config, std::string_view title);

}  // namespace sluice
