#include "train/compare/cases.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "autograd/support/registry.h"
#include "train/compare/comparison.h"
#include "train/field_index.h"
#include "train/yaml_section.h"

namespace sluice {
namespace {

constexpr std::string_view kGrid = "grid";
constexpr std::string_view kNameCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+=-";
constexpr size_t kLongestName = 100;

std::optional<YamlEntry> take(YamlNode& map, std::string_view key) {
  const auto found = std::ranges::find(map.entries, key, &YamlEntry::key);
  if (found == map.entries.end()) return std::nullopt;
  YamlEntry entry = std::move(*found);
  map.entries.erase(found);
  return entry;
}

/// What a value of a grid is called: its text, the type of a choice, or its number in the list.
std::string value_name(const YamlNode& value, size_t index) {
  std::string name = value.text;
  if (const YamlEntry* type = value.find("type")) name = type->value.text;
  if (name.empty()) return std::to_string(index);
  std::erase_if(name, [](char c) { return kNameCharacters.find(c) == std::string_view::npos; });
  return name.empty() ? std::to_string(index) : name;
}

class CaseReader {
 public:
  explicit CaseReader(Diagnostics& problems) : problems_(problems) {}

  /// The cases of the map `entry`, its section being `section`.
  std::vector<ComparisonCase> read(const std::string& section, const YamlEntry& entry) {
    std::vector<ComparisonCase> cases;
    if (entry.value.kind != YamlNode::Kind::map || entry.value.entries.empty()) {
      problems_.add(entry.value.where, section,
                    fmt::format("found {}, allowed a mapping of names to settings",
                                entry.value.kind == YamlNode::Kind::map ? "no entry"
                                                                        : entry.value.describe()));
      return cases;
    }
    for (const YamlEntry& item : entry.value.entries) {
      for (ComparisonCase& one : read_case(join_key(section, item.key), item)) {
        check_name(section, item, one.name);
        cases.push_back(std::move(one));
      }
    }
    return cases;
  }

  /// Every case with every combination of the grid.
  std::vector<ComparisonCase> multiply(std::vector<ComparisonCase> cases, const std::string& key,
                                       const YamlEntry& grid) {
    if (grid.value.kind != YamlNode::Kind::map || grid.value.entries.empty()) {
      problems_.add(grid.value.where, key,
                    fmt::format("found {}, allowed a mapping of keys to lists of values",
                                grid.value.describe()));
      return cases;
    }
    for (const YamlEntry& axis : grid.value.entries) {
      if (axis.value.kind != YamlNode::Kind::list || axis.value.items.empty()) {
        problems_.add(axis.value.where, join_key(key, axis.key),
                      fmt::format("found {}, allowed a list of values", axis.value.describe()));
        continue;
      }
      cases = along(cases, axis);
    }
    return cases;
  }

  /// The settings of `item`, with its grid if it has one.
  std::vector<ComparisonCase> read_case(const std::string& key, const YamlEntry& item) {
    ComparisonCase one{.name = item.key};
    if (item.value.kind != YamlNode::Kind::map) {
      problems_.add(item.value.where, key,
                    fmt::format("found {}, allowed a mapping of recipe keys to values; write {{}} "
                                "for the base recipe as it is",
                                item.value.describe()));
      return {one};
    }
    const YamlEntry* grid = nullptr;
    for (const YamlEntry& setting : item.value.entries) {
      if (setting.key == kGrid) {
        grid = &setting;
      } else if (setting.key == "seed") {
        problems_.add(setting.where, join_key(key, setting.key),
                      "not allowed here: the comparison's seeds are the same for everybody");
      } else {
        one.settings.push_back({setting.key, setting.where, setting.value});
      }
    }
    if (grid == nullptr) return {one};
    return multiply({one}, join_key(key, kGrid), *grid);
  }

 private:
  static std::vector<ComparisonCase> along(const std::vector<ComparisonCase>& cases,
                                           const YamlEntry& axis) {
    const std::string word = axis.key.substr(axis.key.rfind('.') + 1);
    std::vector<ComparisonCase> result;
    for (const ComparisonCase& one : cases) {
      for (size_t i = 0; i < axis.value.items.size(); ++i) {
        const YamlNode& value = axis.value.items[i];
        ComparisonCase next = one;
        next.name +=
            fmt::format("{}{}={}", one.name.empty() ? "" : "-", word, value_name(value, i));
        next.settings.push_back({axis.key, value.where, value});
        result.push_back(std::move(next));
      }
    }
    return result;
  }

  void check_name(const std::string& section, const YamlEntry& item, const std::string& name) {
    const bool is_file_name = !name.empty() && name.size() <= kLongestName &&
                              name.find_first_not_of(kNameCharacters) == std::string::npos &&
                              name.front() != '.' && name.front() != '-';
    if (!is_file_name) {
      problems_.add(item.where, section,
                    fmt::format("found the name \"{}\", allowed are letters, digits and _ . + = - "
                                "(it names files)",
                                name));
    } else if (name == kDenseTwin) {
      problems_.add(item.where, section,
                    fmt::format("the name {} is that of the dense model that is derived", name));
    }
  }

  Diagnostics& problems_;
};

/// What neither this file nor the list of fields reads.
void check_keys(YamlDocument& document) {
  ComparisonConfig config;
  std::vector<std::string> known = keys_of(config);
  known.insert(known.begin() + 1, {"set", "models", "variations", std::string(kGrid)});
  const std::vector<std::string_view> names(known.begin(), known.end());
  std::erase_if(document.root.entries, [&](const YamlEntry& entry) {
    if (std::ranges::find(names, entry.key) != names.end()) return false;
    document.problems.add(entry.where, entry.key,
                          fmt::format("unknown key of a comparison{}; allowed: {}",
                                      did_you_mean(entry.key, names), fmt::join(names, ", ")));
    return true;
  });
}

/// Equal names would share a folder.
void check_distinct(const std::vector<ComparisonCase>& cases, const std::string& section,
                    const Location& where, Diagnostics& problems) {
  std::set<std::string> names;
  for (const ComparisonCase& one : cases) {
    if (!names.insert(one.name).second) {
      problems.add(where, section, fmt::format("two entries are named {}", one.name));
    }
  }
}

/// The names of cells join those of model and variation, which may make two of them equal.
void check_distinct_cells(const ComparisonCases& cases, const Location& where,
                          Diagnostics& problems) {
  std::map<std::string, std::string> cells;  // name -> how it came about
  for (const ComparisonCase& model : cases.models) {
    if (model.name.empty()) continue;  // the only one
    for (const ComparisonCase& variation : cases.variations) {
      const std::string cell = fmt::format("{}-{}", model.name, variation.name);
      const std::string origin = fmt::format("model {}, variation {}", model.name, variation.name);
      const auto [other, is_new] = cells.emplace(cell, origin);
      if (is_new) continue;
      problems.add(where, "models",
                   fmt::format("{} and {} would both be named {}; give one of them another name",
                               other->second, origin, cell));
    }
  }
}

}  // namespace

ComparisonCases take_cases(YamlDocument& document) {
  ComparisonCases cases;
  check_keys(document);
  CaseReader reader(document.problems);
  if (const auto common = take(document.root, "set")) {
    std::vector<ComparisonCase> read = reader.read_case("set", *common);
    if (read.size() > 1) {
      document.problems.add(common->where, "set", "a grid stands under variations or at the top");
    }
    cases.common = std::move(read.front());
  }
  const auto models = take(document.root, "models");
  const auto variations = take(document.root, "variations");
  const auto grid = take(document.root, kGrid);
  if (models) {
    cases.models = reader.read("models", *models);
    check_distinct(cases.models, "models", models->where, document.problems);
  } else {
    cases.models.emplace_back();
  }
  if (variations) cases.variations = reader.read("variations", *variations);
  if (grid) {
    if (!variations) cases.variations.emplace_back();
    cases.variations = reader.multiply(std::move(cases.variations), std::string(kGrid), *grid);
  }
  if (variations || grid) {
    check_distinct(cases.variations, "variations", (variations ? variations : grid)->where,
                   document.problems);
    if (models) check_distinct_cells(cases, models->where, document.problems);
  } else {
    document.problems.add(
        document.root.where, "variations",
        "missing; it maps names to the settings to compare, as in {bip: {balance: "
        "{type: bip}}}");
  }
  return cases;
}

}  // namespace sluice
