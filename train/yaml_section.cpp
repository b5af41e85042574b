#include "train/yaml_section.h"

#include <algorithm>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"

namespace sluice {
namespace {

// The place of a key below a section: as deep as the text goes.
Location locate(const YamlSection& section, std::string_view key) {
  Location where = section.where;
  const YamlNode* node = section.map;
  while (node != nullptr && !key.empty()) {
    const size_t dot = key.find('.');
    const std::string_view part = key.substr(0, dot);
    const YamlNode* next = nullptr;
    if (const YamlEntry* entry = node->find(part)) next = &entry->value;
    for (size_t i = 0; next == nullptr && i < node->items.size(); ++i) {
      if (part == std::to_string(i)) next = &node->items[i];
    }
    if (next != nullptr) where = next->where;
    node = next;
    key.remove_prefix(dot == std::string_view::npos ? key.size() : dot + 1);
  }
  return where;
}

}  // namespace

std::string join_key(std::string_view section, std::string_view key) {
  return section.empty() ? std::string(key) : fmt::format("{}.{}", section, key);
}

std::string describe_unknown_key(YamlReading& reading, const YamlSection& section,
                                 const std::string& key, const std::vector<std::string>& known) {
  for (const Choice& choice : section.choices) {
    const auto keys = keys_of(*choice.make_config());
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) {
      return fmt::format("not read by type \"{}\"; it belongs to type \"{}\"", section.type,
                         choice.name);
    }
  }
  const std::string unknown = section.type.empty()
                                  ? "unknown key"
                                  : fmt::format("unknown key of type \"{}\"", section.type);
  const std::vector<std::string_view> names(known.begin(), known.end());
  if (const std::string hint = did_you_mean(key, names); !hint.empty()) return unknown + hint;
  if (const auto sections = reading.sections().sections_with(key); !sections.empty()) {
    return fmt::format("{}; it belongs to {}", unknown, sections.front());
  }
  return known.empty() ? unknown + "; none is allowed"
                       : fmt::format("{}; allowed: {}", unknown, fmt::join(known, ", "));
}

void check_section(YamlReading& reading, Configurable& config, const YamlSection& section) {
  const std::string problem = config.check();
  if (problem.empty()) return;
  // "top_k: found ..." is about the key top_k of this section.
  const auto known = keys_of(config);
  const size_t colon = problem.find(": ");
  const std::string_view subject = std::string_view(problem).substr(0, colon);
  const std::string first(subject.substr(0, subject.find('.')));
  const bool names_key =
      colon != std::string::npos && std::find(known.begin(), known.end(), first) != known.end();
  if (names_key) {
    reading.diagnostics.add(locate(section, subject), join_key(section.key, subject),
                            problem.substr(colon + 2));
  } else {
    reading.diagnostics.add(section.where, section.key, problem);
  }
}

}  // namespace sluice
