#pragma once
// One text to one tree, by yaml-cpp's events; used by yaml_document.cpp only.

#include <memory>
#include <string_view>

#include "train/yaml_document.h"

namespace sluice {

/// Parses `text`. With `is_recipe` the root must be a map, and places have lines and columns;
/// without, it is the value of a --set. Never throws for what the text contains.
[[nodiscard]] YamlDocument parse_source(std::string_view text,
                                        std::shared_ptr<const SourceText> source, bool is_recipe);

}  // namespace sluice
