#pragma once
// YAML text as a tree that remembers where everything stands: files, overlaid by later files and by
// --set.
//
//   const YamlDocument recipe = load_documents({{"base.yaml", "mine.yaml"}, {"train.steps=100"}});
//
// The tree is plain data; what the keys mean is the business of yaml_reader.h. yaml-cpp stays
// inside the .cpp.
//
// Overlay: maps merge key by key, everything else (and a map whose `type` differs, since its other
// keys belong to another choice) is replaced whole. `key: ~` takes the key away that a file below gave.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train/diagnostics.h"

namespace sluice {

struct YamlEntry;

struct YamlNode {
  enum class Kind { null, scalar, list, map };

  Kind kind = Kind::null;
  Location where;
  std::string text;        // scalar
  bool is_quoted = false;  // scalar written in quotes (or as a block): never a number or a word
  std::vector<YamlNode> items;     // list
  std::vector<YamlEntry> entries;  // map, in the order of the text; keys are distinct

  /// The entry of a map, or null.
  [[nodiscard]] const YamlEntry* find(std::string_view key) const;
  [[nodiscard]] YamlEntry* find(std::string_view key);
  /// What stands here, for messages: `12`, `"text"`, `a list`, `a mapping`, `nothing`.
  [[nodiscard]] std::string describe() const;
};

struct YamlEntry {
  std::string key;
  Location where;  // of the key
  YamlNode value;
};

struct YamlDocument {
  YamlNode root;         // a map, unless is_broken
  Diagnostics problems;  // syntax errors, duplicate keys, what --set could not find
  bool is_broken =
      false;  // a source could not be parsed: reading on would only produce consequences
};

/// What a command line names: recipe files, later ones winning, then `a.b.c=value` overrides, later
/// ones winning.
struct RecipeSource {
  std::vector<std::string> files;
  std::vector<std::string> sets;
};

/// Reads and overlays all sources. Never throws for what the sources contain: the problems are in
/// the document.
[[nodiscard]] YamlDocument load_documents(const RecipeSource& source);

/// Parses one text. `label` names it in messages; relative paths in it start at `folder` (the
/// current folder if empty).
[[nodiscard]] YamlDocument parse_yaml(std::string_view text, std::string label,
                                      std::string folder = {});

/// Writes `value` under a dotted key, as `--set` does: items of lists are named by their number, what
/// is not there is made. A key that cannot be followed is a problem of the document, at `where`.
void apply_setting(YamlDocument& document, std::string_view key, YamlNode value,
                   const Location& where);

/// Overlays `above` on `base`, see the top of this file.
void overlay(YamlNode& base, const YamlNode& above);

}  // namespace sluice
