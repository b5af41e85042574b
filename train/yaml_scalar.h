#pragma once
// Single values of a recipe: read strictly, described in messages, and written so that they read
// back the same.

#include <cstdint>
#include <string>
#include <string_view>

#include "autograd/support/fields.h"
#include "train/yaml_document.h"

namespace sluice {

/// Each reads a scalar node. Returns "" and sets `value`, or returns what was found and what is
/// allowed, and leaves `value` alone. `or_word` extends the allowed values in the message ("none";
/// "" for no word).
[[nodiscard]] std::string read_boolean(const YamlNode& node, bool& value);
[[nodiscard]] std::string read_integer(const YamlNode& node, IntegerRange range,
                                       std::string_view or_word, int64_t& value);
[[nodiscard]] std::string read_number(const YamlNode& node, NumberRange range,
                                      std::string_view or_word, double& value);
[[nodiscard]] std::string read_duration(const YamlNode& node, std::string_view or_word,
                                        Duration& value);
/// Any scalar is text, quoted or not.
[[nodiscard]] std::string read_text(const YamlNode& node, std::string& value);

/// True for the plain (unquoted) scalar `word`.
[[nodiscard]] bool is_word(const YamlNode& node, std::string_view word);

/// "1 to 8", "at least 1", "more than 0, at most 1", or "" for no bound.
[[nodiscard]] std::string describe_range(IntegerRange range);
[[nodiscard]] std::string describe_range(NumberRange range);
[[nodiscard]] bool is_inside(double value, NumberRange range);

/// Shortest text that reads back to the same double, with a point or an exponent: "1.0", "0.001",
/// "1.0e-05". Throws InternalError for NaN and infinities, which no recipe can hold.
[[nodiscard]] std::string format_number(double value);
/// Plain if that is safe in block and flow YAML, else in double quotes with escapes.
[[nodiscard]] std::string format_text(std::string_view text);

}  // namespace sluice
