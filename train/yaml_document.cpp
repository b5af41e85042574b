#include "train/yaml_document.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "autograd/support/error.h"
#include "train/yaml_parser.h"

namespace sluice {
namespace {

// A recipe is a page or two; what is larger is another file named by mistake.
constexpr uintmax_t kLargestFile = uintmax_t{4} << 20;

// Returns "" or why the file cannot be read.
std::string read_file(const std::string& path, std::string& text) {
  std::error_code status;
  if (std::filesystem::is_directory(path, status)) return "is a folder, not a recipe file";
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return fmt::format("cannot be opened: {}", std::strerror(errno != 0 ? errno : EIO));
  const uintmax_t size = std::filesystem::file_size(path, status);
  if (!status && size > kLargestFile) {
    return fmt::format("is {} bytes long, allowed at most {} for a recipe", size, kLargestFile);
  }
  text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  return file.bad() ? "cannot be read to its end" : "";
}

std::string folder_of(const std::string& path) {
  std::error_code status;
  const auto absolute = std::filesystem::absolute(path, status);
  return (status ? std::filesystem::path(path) : absolute)
      .parent_path()
      .lexically_normal()
      .string();
}

std::string current_folder() {
  std::error_code status;
  return std::filesystem::current_path(status).string();
}

const YamlNode* scalar_type(const YamlNode& map) {
  const YamlEntry* type = map.find("type");
  return type != nullptr && type->value.kind == YamlNode::Kind::scalar ? &type->value : nullptr;
}

// Another `type` means that the other keys belong to another choice.
bool changes_type(const YamlNode& base, const YamlNode& above) {
  const YamlNode* before = scalar_type(base);
  const YamlNode* after = scalar_type(above);
  return before != nullptr && after != nullptr && before->text != after->text;
}

YamlNode wrap_in_map(std::string key, YamlNode value, const Location& where) {
  YamlNode map;
  map.kind = YamlNode::Kind::map;
  map.where = where;
  map.entries.push_back({std::move(key), where, std::move(value)});
  return map;
}

std::vector<std::string> split_key(std::string_view key) {
  std::vector<std::string> parts;
  while (true) {
    const size_t dot = key.find('.');
    parts.emplace_back(key.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    key.remove_prefix(dot + 1);
  }
}

std::optional<size_t> list_index(const std::string& part) {
  size_t index = 0;
  const char* end = part.data() + part.size();
  const auto [stop, status] = std::from_chars(part.data(), end, index);
  if (status != std::errc{} || stop != end) return std::nullopt;
  return index;
}

// Writes `value` under parts[depth...] of `node`. Items of a list are named by their number, from
// 0. Returns "" or what is wrong.
std::string set_value(YamlNode& node, const std::vector<std::string>& parts, size_t depth,
                      YamlNode value, const Location& where) {
  if (depth == parts.size()) {
    overlay(node, value);
    return {};
  }
  const std::string& part = parts[depth];
  if (node.kind == YamlNode::Kind::list) {
    const auto index = list_index(part);
    if (!index || *index >= node.items.size()) {
      return fmt::format("\"{}\" is no item of a list of {}; items are counted from 0", part,
                         node.items.size());
    }
    return set_value(node.items[*index], parts, depth + 1, std::move(value), where);
  }
  YamlEntry* entry = node.find(part);
  if (entry != nullptr && depth + 1 < parts.size()) {
    return set_value(entry->value, parts, depth + 1, std::move(value), where);
  }
  for (size_t i = parts.size(); i > depth; --i) {
    value = wrap_in_map(parts[i - 1], std::move(value), where);
  }
  overlay(node, value);
  return {};
}

bool has_empty_part(const std::vector<std::string>& parts) {
  return std::find(parts.begin(), parts.end(), "") != parts.end();
}

void apply_set(YamlDocument& document, const std::string& setting, int order) {
  const size_t equals = setting.find('=');
  const std::string key = setting.substr(0, equals);
  auto source = std::make_shared<SourceText>(SourceText{"--set " + key, current_folder(), order});
  const Location where{source, 0, 0};

  if (equals == std::string::npos || equals + 1 == setting.size() ||
      has_empty_part(split_key(key))) {
    document.problems.add(
        where, {},
        "a setting is written key=value, such as train.steps=100, or key=~ to take it away");
    return;
  }
  YamlDocument value = parse_source(setting.substr(equals + 1), source, false);
  document.problems.add(value.problems);
  document.is_broken = document.is_broken || value.is_broken;
  if (!value.is_broken) apply_setting(document, key, std::move(value.root), where);
}

}  // namespace

void apply_setting(YamlDocument& document, std::string_view key, YamlNode value,
                   const Location& where) {
  const std::vector<std::string> parts = split_key(key);
  const std::string problem = has_empty_part(parts)
                                  ? fmt::format("\"{}\" is no key such as train.steps", key)
                                  : set_value(document.root, parts, 0, std::move(value), where);
  if (!problem.empty()) document.problems.add(where, {}, problem);
}

const YamlEntry* YamlNode::find(std::string_view key) const {
  for (const YamlEntry& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

YamlEntry* YamlNode::find(std::string_view key) {
  for (YamlEntry& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

void overlay(YamlNode& base, const YamlNode& above) {
  const bool merges = base.kind == YamlNode::Kind::map && above.kind == YamlNode::Kind::map &&
                      !changes_type(base, above);
  if (!merges) {
    base = above;
    return;
  }
  for (const YamlEntry& entry : above.entries) {
    YamlEntry* existing = base.find(entry.key);
    if (existing != nullptr && entry.value.kind == YamlNode::Kind::null) {
      base.entries.erase(base.entries.begin() + (existing - base.entries.data()));
    } else if (existing != nullptr) {
      existing->where = entry.where;
      overlay(existing->value, entry.value);
    } else {
      base.entries.push_back(entry);
    }
  }
}

YamlDocument parse_yaml(std::string_view text, std::string label, std::string folder) {
  if (folder.empty()) folder = current_folder();
  return parse_source(
      text, std::make_shared<SourceText>(SourceText{std::move(label), std::move(folder), 0}), true);
}

YamlDocument load_documents(const RecipeSource& source) {
  YamlDocument document;
  document.root.kind = YamlNode::Kind::map;
  int order = 0;
  for (const std::string& path : source.files) {
    auto origin = std::make_shared<SourceText>(SourceText{path, folder_of(path), order++});
    std::string text;
    if (const std::string problem = read_file(path, text); !problem.empty()) {
      document.problems.add({origin, 0, 0}, {}, problem);
      document.is_broken = true;
      continue;
    }
    const YamlDocument layer = parse_source(text, origin, true);
    document.problems.add(layer.problems);
    document.is_broken = document.is_broken || layer.is_broken;
    if (!document.root.where.source) document.root.where = layer.root.where;
    if (!layer.is_broken) overlay(document.root, layer.root);
  }
  for (const std::string& setting : source.sets) apply_set(document, setting, order++);
  return document;
}

}  // namespace sluice
