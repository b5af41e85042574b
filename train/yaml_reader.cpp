#include "train/yaml_reader.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"
#include "autograd/support/scheduled.h"
#include "optim/schedules.h"
#include "train/yaml_scalar.h"
#include "train/yaml_section.h"

namespace sluice {
namespace {

std::vector<std::string_view> names_of(std::span<const Choice> choices) {
  std::vector<std::string_view> names;
  for (const Choice& choice : choices) names.push_back(choice.name);
  return names;
}

void read_section(YamlReading& reading, Configurable& config, const YamlSection& section);

// Reads the fields of one section.
class SectionReader : public FieldVisitor {
 public:
  SectionReader(YamlReading& reading, const YamlSection& section)
      : reading_(reading), section_(section) {}

  void boolean(FieldInfo info, bool& value) override {
    if (const YamlNode* node = find(info)) report(info, *node, read_boolean(*node, value));
  }
  void integer(FieldInfo info, int64_t& value, IntegerRange range) override {
    if (const YamlNode* node = find(info)) {
      report(info, *node, read_integer(*node, range, "", value));
    }
  }
  void number(FieldInfo info, double& value, NumberRange range) override {
    if (const YamlNode* node = find(info)) {
      report(info, *node, read_number(*node, range, "", value));
    }
  }
  void text(FieldInfo info, std::string& value) override {
    if (const YamlNode* node = find(info)) report(info, *node, read_text(*node, value));
  }
  void path(FieldInfo info, std::string& value) override {
    if (const YamlNode* node = find(info)) report(info, *node, read_path(info, *node, value));
  }

  void optional_integer(FieldInfo info, std::optional<int64_t>& value, IntegerRange range,
                        std::string_view absent) override {
    read_optional(info, value, absent, [&](const YamlNode& node, int64_t& present) {
      return read_integer(node, range, absent, present);
    });
  }
  void optional_number(FieldInfo info, std::optional<double>& value, NumberRange range,
                       std::string_view absent) override {
    read_optional(info, value, absent, [&](const YamlNode& node, double& present) {
      return read_number(node, range, absent, present);
    });
  }
  void optional_path(FieldInfo info, std::optional<std::string>& value,
                     std::string_view absent) override {
    read_optional(info, value, absent, [&](const YamlNode& node, std::string& present) {
      return read_path(info, node, present);
    });
  }
  void optional_duration(FieldInfo info, std::optional<Duration>& value,
                         std::string_view absent) override {
    read_optional(info, value, absent, [&](const YamlNode& node, Duration& present) {
      return read_duration(node, absent, present);
    });
  }

  void word(FieldInfo info, std::string& value,
            std::span<const std::string_view> allowed) override {
    const YamlNode* node = find(info);
    if (node == nullptr) return;
    for (const std::string_view candidate : allowed) {
      if (is_word(*node, candidate)) {
        value = candidate;
        return;
      }
    }
    report(info, *node, refuse_word(*node, allowed));
  }
  void duration(FieldInfo info, Duration& value) override {
    if (const YamlNode* node = find(info)) report(info, *node, read_duration(*node, "", value));
  }
  void scheduled(FieldInfo info, Scheduled& value, NumberRange range) override {
    if (const YamlNode* node = find(info)) read_scheduled(info, *node, range, "", value);
  }
  void optional_scheduled(FieldInfo info, std::optional<Scheduled>& value, NumberRange range,
                          std::string_view absent) override {
    const YamlNode* node = find(info);
    if (node == nullptr) return;
    if (is_word(*node, absent)) {
      value.reset();
      return;
    }
    Scheduled present;
    if (read_scheduled(info, *node, range, absent, present)) value = std::move(present);
  }

  void numbers(FieldInfo info, std::vector<double>& value, NumberRange range) override {
    read_list(info, value, [&](const YamlNode& node, double& item) {
      return read_number(node, range, "", item);
    });
  }
  void integers(FieldInfo info, std::vector<int64_t>& value, IntegerRange range) override {
    read_list(info, value, [&](const YamlNode& node, int64_t& item) {
      return read_integer(node, range, "", item);
    });
  }
  void texts(FieldInfo info, std::vector<std::string>& value) override {
    read_list(info, value,
              [](const YamlNode& node, std::string& item) { return read_text(node, item); });
  }

  void object(FieldInfo info, Configurable& value) override;
  void optional_object(FieldInfo info, std::shared_ptr<Configurable>& value,
                       const std::function<std::shared_ptr<Configurable>()>& make,
                       std::string_view absent) override;
  void object_list(FieldInfo info, std::vector<std::shared_ptr<Configurable>>& value,
                   const std::function<std::shared_ptr<Configurable>()>& make) override;
  void tagged(FieldInfo info, Tagged& value, std::span<const Choice> choices) override;
  void tagged_list(FieldInfo info, std::vector<Tagged>& value,
                   std::span<const Choice> choices) override;
  void tagged_map(FieldInfo info, TaggedMap& value, std::span<const Choice> choices) override;

  /// After all fields: what nobody read.
  void report_unknown_keys();

 private:
  /// The value of a key, or null when it is not given; a required one is then reported.
  const YamlNode* find(const FieldInfo& info) {
    known_.emplace_back(info.key);
    const YamlEntry* entry = section_.map == nullptr ? nullptr : section_.map->find(info.key);
    if (entry == nullptr && info.required) {
      add(section_.where, full(info), fmt::format("missing; it is {}", info.doc));
    }
    return entry == nullptr ? nullptr : &entry->value;
  }
  [[nodiscard]] std::string full(const FieldInfo& info) const {
    return join_key(section_.key, info.key);
  }
  void add(const Location& where, std::string key, std::string message) {
    reading_.diagnostics.add(where, std::move(key), std::move(message));
  }
  void report(const FieldInfo& info, const YamlNode& node, std::string problem) {
    if (!problem.empty()) add(node.where, full(info), std::move(problem));
  }

  /// A number or a schedule; `absent` is the word that would do as well, or empty. False when a
  /// problem was reported.
  bool read_scheduled(const FieldInfo& info, const YamlNode& node, NumberRange range,
                      std::string_view absent, Scheduled& value);
  static std::string read_path(const FieldInfo& info, const YamlNode& node, std::string& value);
  static std::string refuse_word(const YamlNode& node, std::span<const std::string_view> allowed) {
    const bool is_text = node.kind == YamlNode::Kind::scalar;
    return fmt::format("found {}, allowed {}{}", node.describe(), fmt::join(allowed, ", "),
                       is_text ? did_you_mean(node.text, allowed) : "");
  }

  template <class T, class Read>
  void read_optional(const FieldInfo& info, std::optional<T>& value, std::string_view absent,
                     const Read& read) {
    const YamlNode* node = find(info);
    if (node == nullptr) return;
    if (is_word(*node, absent)) {
      value.reset();
      return;
    }
    T present{};
    std::string problem = read(*node, present);
    if (problem.empty()) {
      value = std::move(present);
    } else {
      report(info, *node, std::move(problem));
    }
  }

  template <class T, class Read>
  void read_list(const FieldInfo& info, std::vector<T>& value, const Read& read) {
    const YamlNode* node = find(info);
    if (node == nullptr) return;
    if (node->kind != YamlNode::Kind::list) {
      const std::string hint =
          node->kind == YamlNode::Kind::scalar ? fmt::format("; write [{}]", node->text) : "";
      report(info, *node, fmt::format("found {}, allowed a list{}", node->describe(), hint));
      return;
    }
    std::vector<T> items(node->items.size());
    for (size_t i = 0; i < items.size(); ++i) {
      std::string problem = read(node->items[i], items[i]);
      if (!problem.empty()) {
        add(node->items[i].where, join_key(full(info), std::to_string(i)), std::move(problem));
      }
    }
    value = std::move(items);
  }

  /// A config of the union's choice that the map names, filled; the type's name is "" after an
  /// error.
  Tagged read_tagged(const YamlNode& node, const std::string& key, const std::string& default_type,
                     std::span<const Choice> choices);

  YamlReading& reading_;
  const YamlSection& section_;
  std::vector<std::string> known_;
};

std::string SectionReader::read_path(const FieldInfo& info, const YamlNode& node,
                                     std::string& value) {
  if (node.kind != YamlNode::Kind::scalar) {
    return fmt::format("found {}, allowed a path", node.describe());
  }
  if (node.text.empty()) {
    if (info.required) return "found an empty path";
    value.clear();
    return {};
  }
  const std::filesystem::path path(node.text);
  value =
      (path.is_absolute() ? path : node.where.source->folder / path).lexically_normal().string();
  return {};
}

bool SectionReader::read_scheduled(const FieldInfo& info, const YamlNode& node, NumberRange range,
                                   std::string_view absent, Scheduled& value) {
  const size_t problems = reading_.diagnostics.size();
  if (node.kind != YamlNode::Kind::map) {
    const std::string otherwise = absent.empty() ? "" : fmt::format("{} or ", absent);
    double constant = 0.0;
    report(
        info, node,
        read_number(node, range, otherwise + "a schedule such as {type: cosine, ...}", constant));
    if (reading_.diagnostics.size() > problems) return false;
    value = Scheduled(constant);
    return true;
  }
  const Tagged read = read_tagged(node, full(info), "", schedule_choices());
  if (reading_.diagnostics.size() > problems) return false;
  auto shape = std::dynamic_pointer_cast<ScheduleShape>(read.config);
  SLUICE_INTERNAL_CHECK(shape != nullptr, "schedule {} is no ScheduleShape", read.type);
  const auto [least, greatest] = shape->extremes();
  for (const double extreme : {least, greatest}) {
    if (is_inside(extreme, range)) continue;
    report(info, node,
           fmt::format("the schedule reaches {}, allowed {}", extreme, describe_range(range)));
    return false;
  }
  value = Scheduled(read.type, std::move(shape));
  return true;
}

void SectionReader::object(FieldInfo info, Configurable& value) {
  const YamlNode* node = find(info);
  // A required section that is missing was reported; its keys would only repeat it.
  if (node == nullptr && info.required) return;
  read_section(reading_, value,
               {node, node == nullptr ? section_.where : node->where, full(info), {}, {}});
}

void SectionReader::optional_object(FieldInfo info, std::shared_ptr<Configurable>& value,
                                    const std::function<std::shared_ptr<Configurable>()>& make,
                                    std::string_view absent) {
  const YamlNode* node = find(info);
  if (node == nullptr) return;
  if (is_word(*node, absent)) {
    value.reset();
  } else if (node->kind != YamlNode::Kind::map) {
    report(info, *node, fmt::format("found {}, allowed a mapping or {}", node->describe(), absent));
  } else {
    value = make();
    read_section(reading_, *value, {node, node->where, full(info), {}, {}});
  }
}

void SectionReader::object_list(FieldInfo info, std::vector<std::shared_ptr<Configurable>>& value,
                                const std::function<std::shared_ptr<Configurable>()>& make) {
  const YamlNode* node = find(info);
  if (node == nullptr) return;
  if (node->kind != YamlNode::Kind::list) {
    report(info, *node, fmt::format("found {}, allowed a list of mappings", node->describe()));
    return;
  }
  value.clear();
  for (const YamlNode& item : node->items) {
    const std::string key = join_key(full(info), std::to_string(value.size()));
    value.push_back(make());
    read_section(reading_, *value.back(), {&item, item.where, key, {}, {}});
  }
}

Tagged SectionReader::read_tagged(const YamlNode& node, const std::string& key,
                                  const std::string& default_type,
                                  std::span<const Choice> choices) {
  const auto names = names_of(choices);
  if (node.kind != YamlNode::Kind::map) {
    const bool is_choice = std::any_of(names.begin(), names.end(),
                                       [&](std::string_view name) { return is_word(node, name); });
    const std::string example = is_choice ? node.text : "...";
    add(node.where, key,
        fmt::format("found {}, allowed a mapping with a type; write {{type: {}}}", node.describe(),
                    example));
    return {};
  }
  const YamlEntry* type = node.find("type");
  if (type == nullptr && default_type.empty()) {
    add(node.where, join_key(key, "type"),
        fmt::format("missing; allowed: {}", fmt::join(names, ", ")));
    return {};
  }
  const auto chosen = std::find_if(choices.begin(), choices.end(), [&](const Choice& choice) {
    return type == nullptr ? choice.name == default_type : is_word(type->value, choice.name);
  });
  if (chosen == choices.end()) {
    SLUICE_INTERNAL_CHECK(type != nullptr, "{}: the default type {} is none of its choices", key,
                          default_type);
    add(type->value.where, join_key(key, "type"), refuse_word(type->value, names));
    return {};
  }
  Tagged value{std::string(chosen->name), chosen->make_config()};
  read_section(reading_, *value.config, {&node, node.where, key, chosen->name, choices});
  return value;
}

void SectionReader::tagged(FieldInfo info, Tagged& value, std::span<const Choice> choices) {
  const YamlNode* node = find(info);
  if (node != nullptr) {
    value = read_tagged(*node, full(info), value.type, choices);
  } else if (!value.type.empty() && !value.config) {
    for (const Choice& choice : choices) {
      if (choice.name == value.type) value.config = choice.make_config();
    }
  }
}

void SectionReader::tagged_list(FieldInfo info, std::vector<Tagged>& value,
                                std::span<const Choice> choices) {
  const YamlNode* node = find(info);
  if (node == nullptr) return;
  value.clear();
  if (node->kind != YamlNode::Kind::list) {
    value.push_back(read_tagged(*node, full(info), "", choices));
    return;
  }
  for (const YamlNode& item : node->items) {
    const std::string key = join_key(full(info), std::to_string(value.size()));
    value.push_back(read_tagged(item, key, "", choices));
  }
}

void SectionReader::tagged_map(FieldInfo info, TaggedMap& value, std::span<const Choice> choices) {
  const YamlNode* node = find(info);
  if (node == nullptr) return;
  value.clear();
  if (node->kind != YamlNode::Kind::map) {
    report(info, *node, fmt::format("found {}, allowed a mapping of names", node->describe()));
    return;
  }
  for (const YamlEntry& entry : node->entries) {
    value.emplace_back(entry.key,
                       read_tagged(entry.value, join_key(full(info), entry.key), "", choices));
  }
}

void SectionReader::report_unknown_keys() {
  if (section_.map == nullptr) return;
  for (const YamlEntry& entry : section_.map->entries) {
    const bool is_type = !section_.type.empty() && entry.key == "type";
    const bool is_known = std::find(known_.begin(), known_.end(), entry.key) != known_.end();
    if (!is_type && !is_known) {
      add(entry.where, join_key(section_.key, entry.key),
          describe_unknown_key(reading_, section_, entry.key, known_));
    }
  }
}

void read_section(YamlReading& reading, Configurable& config, const YamlSection& section) {
  if (section.map != nullptr && section.map->kind != YamlNode::Kind::map) {
    reading.diagnostics.add(section.where, section.key,
                            fmt::format("found {}, allowed a mapping", section.map->describe()));
    return;
  }
  const size_t problems = reading.diagnostics.size();
  SectionReader reader(reading, section);
  config.fields(reader);
  reader.report_unknown_keys();
  if (reading.diagnostics.size() == problems) {
    check_section(reading, config, section);
  }
}

}  // namespace

Diagnostics read_into(Configurable& config, const YamlDocument& document) {
  Diagnostics diagnostics = document.problems;
  if (!document.is_broken) {
    YamlReading reading{config, diagnostics, std::nullopt};
    read_section(reading, config, {&document.root, document.root.where, "", {}, {}});
  }
  diagnostics.sort();
  return diagnostics;
}

void read_or_throw(Configurable& config, const YamlDocument& document) {
  read_into(config, document).throw_if_any();
}

}  // namespace sluice
