#pragma once
// One section of a recipe while it is read: where it stands, and the messages that need more than
// its own fields. Used by yaml_reader.cpp only.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "train/diagnostics.h"
#include "train/field_index.h"
#include "train/yaml_document.h"

namespace sluice {

/// What one reading shares.
struct YamlReading {
  Configurable& root;
  Diagnostics& diagnostics;
  std::optional<FieldIndex> index;  // made at the first unknown key

  const FieldIndex& sections() {
    if (!index) index.emplace(root);
    return *index;
  }
};

/// A mapping, and where it stands.
struct YamlSection {
  const YamlNode* map = nullptr;  // null: not given, all defaults
  Location where;                 // of the map, or of the nearest section around it that is given
  std::string key;                // full key; empty for the root
  // Of a tagged union only.
  std::string_view type;
  std::span<const Choice> choices;
};

/// "section.key", or "key" at the top.
[[nodiscard]] std::string join_key(std::string_view section, std::string_view key);

/// Why nobody reads `key` of `section`, whose config reads `known`: the choice of the union that
/// reads it, the nearest key, the section that it belongs to, or the keys that are allowed.
[[nodiscard]] std::string describe_unknown_key(YamlReading& reading, const YamlSection& section,
                                               const std::string& key,
                                               const std::vector<std::string>& known);

/// Runs config.check() and reports its sentence, at the key that it starts with if there is one.
void check_section(YamlReading& reading, Configurable& config, const YamlSection& section);

}  // namespace sluice
