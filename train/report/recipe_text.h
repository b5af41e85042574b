#pragma once
// Recipes in colours.

#include <string>
#include <string_view>

namespace sluice::report {

/// YAML of the kind that yaml_writer.h writes as HTML: keys, numbers, quoted text, words and comments
/// in spans of class k, n, s, w and m. What it does not understand stays plain; everything is
/// escaped.
[[nodiscard]] std::string highlighted_yaml(std::string_view text);

}  // namespace sluice::report
