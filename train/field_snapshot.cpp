#include "train/field_snapshot.h"

#include <algorithm>
#include <unordered_map>

#include "autograd/support/error.h"
#include "autograd/support/scheduled.h"
#include "train/yaml_scalar.h"

namespace sluice {
namespace {

using Kind = FieldValue::Kind;

class SnapshotVisitor : public FieldVisitor {
 public:
  explicit SnapshotVisitor(std::vector<FieldValue>& values) : values_(values) {}

  void boolean(FieldInfo info, bool& value) override { scalar(info, value ? "true" : "false"); }
  void integer(FieldInfo info, int64_t& value, IntegerRange) override {
    scalar(info, std::to_string(value));
  }
  void number(FieldInfo info, double& value, NumberRange) override {
    scalar(info, format_number(value));
  }
  void text(FieldInfo info, std::string& value) override { scalar(info, format_text(value)); }
  void path(FieldInfo info, std::string& value) override {
    if (!value.empty()) add(info, Kind::path, value);
  }

  void optional_integer(FieldInfo info, std::optional<int64_t>& value, IntegerRange,
                        std::string_view absent) override {
    scalar(info, value ? std::to_string(*value) : std::string(absent));
  }
  void optional_number(FieldInfo info, std::optional<double>& value, NumberRange,
                       std::string_view absent) override {
    scalar(info, value ? format_number(*value) : std::string(absent));
  }
  void optional_path(FieldInfo info, std::optional<std::string>& value,
                     std::string_view absent) override {
    if (value) {
      add(info, Kind::path, *value);
    } else {
      scalar(info, std::string(absent));
    }
  }
  void word(FieldInfo info, std::string& value, std::span<const std::string_view>) override {
    scalar(info, value);
  }
  void scheduled(FieldInfo info, Scheduled& value, NumberRange) override {
    if (value.is_constant()) {
      scalar(info, format_number(value.constant()));
    } else {
      fill_tagged(add(info, Kind::map), value.type(), value.config().get());
    }
  }
  void optional_scheduled(FieldInfo info, std::optional<Scheduled>& value, NumberRange range,
                          std::string_view absent) override {
    if (value) {
      scheduled(info, *value, range);
    } else {
      scalar(info, std::string(absent));
    }
  }
  void duration(FieldInfo info, Duration& value) override { scalar(info, value.to_string()); }
  void optional_duration(FieldInfo info, std::optional<Duration>& value,
                         std::string_view absent) override {
    scalar(info, value ? value->to_string() : std::string(absent));
  }

  void numbers(FieldInfo info, std::vector<double>& value, NumberRange) override {
    list(info, value, [](double item) { return format_number(item); });
  }
  void integers(FieldInfo info, std::vector<int64_t>& value, IntegerRange) override {
    list(info, value, [](int64_t item) { return std::to_string(item); });
  }
  void texts(FieldInfo info, std::vector<std::string>& value) override {
    list(info, value, [](const std::string& item) { return format_text(item); });
  }

  void object(FieldInfo info, Configurable& value) override { fill(add(info, Kind::map), value); }
  void optional_object(FieldInfo info, std::shared_ptr<Configurable>& value,
                       const std::function<std::shared_ptr<Configurable>()>&,
                       std::string_view absent) override {
    if (value) {
      fill(add(info, Kind::map), *value);
    } else {
      scalar(info, std::string(absent));
    }
  }
  void object_list(FieldInfo info, std::vector<std::shared_ptr<Configurable>>& value,
                   const std::function<std::shared_ptr<Configurable>()>&) override {
    FieldValue& field = add(info, Kind::list);
    for (const auto& item : value) fill(add_item(field, Kind::map), *item);
  }
  void tagged(FieldInfo info, Tagged& value, std::span<const Choice>) override {
    if (!value.type.empty()) fill_tagged(add(info, Kind::map), value.type, value.config.get());
  }
  void tagged_list(FieldInfo info, std::vector<Tagged>& value, std::span<const Choice>) override {
    FieldValue& field = add(info, Kind::list);
    for (const Tagged& item : value) {
      fill_tagged(add_item(field, Kind::map), item.type, item.config.get());
    }
  }
  void tagged_map(FieldInfo info, TaggedMap& value, std::span<const Choice>) override {
    FieldValue& field = add(info, Kind::map);
    for (const auto& [key, item] : value) {
      field.values.push_back({key, {}, Kind::map, {}, {}});
      fill_tagged(field.values.back(), item.type, item.config.get());
    }
  }

 private:
  FieldValue& add(const FieldInfo& info, Kind kind, std::string text = {}) {
    values_.push_back({std::string(info.key), std::string(info.doc), kind, std::move(text), {}});
    return values_.back();
  }
  void scalar(const FieldInfo& info, std::string text) { add(info, Kind::scalar, std::move(text)); }

  static FieldValue& add_item(FieldValue& list, Kind kind, std::string text = {}) {
    list.values.push_back({{}, {}, kind, std::move(text), {}});
    return list.values.back();
  }
  template <class T, class Format>
  void list(const FieldInfo& info, const std::vector<T>& items, const Format& format) {
    FieldValue& field = add(info, Kind::list);
    for (const T& item : items) add_item(field, Kind::scalar, format(item));
  }

  static void fill(FieldValue& field, Configurable& config) {
    SnapshotVisitor visitor(field.values);
    config.fields(visitor);
  }
  static void fill_tagged(FieldValue& field, const std::string& type, Configurable* config) {
    field.values.push_back({"type", {}, Kind::scalar, format_text(type), {}});
    if (config != nullptr) fill(field, *config);
  }

  std::vector<FieldValue>& values_;
};

bool is_scalar(const FieldValue& field) {
  return field.kind == Kind::scalar || field.kind == Kind::path;
}

void flatten_into(const FieldValue& field, const std::string& key, std::vector<FlatField>& flat) {
  const bool holds_scalars =
      field.kind == Kind::list && std::all_of(field.values.begin(), field.values.end(), is_scalar);
  if (is_scalar(field)) {
    flat.push_back({key, field.text});
  } else if (holds_scalars) {
    std::vector<std::string> items;
    for (const FieldValue& item : field.values) items.push_back(item.text);
    flat.push_back({key, fmt::format("[{}]", fmt::join(items, ", "))});
  } else if (field.values.empty()) {
    flat.push_back({key, "{}"});
  } else {
    for (size_t i = 0; i < field.values.size(); ++i) {
      const FieldValue& value = field.values[i];
      const std::string name = field.kind == Kind::list ? std::to_string(i) : value.key;
      flatten_into(value, key.empty() ? name : key + '.' + name, flat);
    }
  }
}

}  // namespace

FieldValue snapshot(Configurable& config) {
  FieldValue root;
  root.kind = Kind::map;
  SnapshotVisitor visitor(root.values);
  config.fields(visitor);
  return root;
}

std::vector<FlatField> flatten(Configurable& config) {
  std::vector<FlatField> flat;
  flatten_into(snapshot(config), "", flat);
  return flat;
}

std::vector<FieldDifference> differences(Configurable& before, Configurable& after) {
  constexpr const char* kNotSet = "not set";
  const std::vector<FlatField> old_fields = flatten(before);
  const std::vector<FlatField> new_fields = flatten(after);
  std::unordered_map<std::string, std::string> old_values;
  std::unordered_map<std::string, std::string> new_values;
  for (const FlatField& field : old_fields) old_values.emplace(field.key, field.value);
  for (const FlatField& field : new_fields) new_values.emplace(field.key, field.value);

  std::vector<FieldDifference> result;
  for (const FlatField& field : old_fields) {
    const auto other = new_values.find(field.key);
    const bool is_gone = other == new_values.end();
    if (is_gone || other->second != field.value) {
      result.push_back({field.key, field.value, is_gone ? kNotSet : other->second});
    }
  }
  for (const FlatField& field : new_fields) {
    if (!old_values.contains(field.key)) result.push_back({field.key, kNotSet, field.value});
  }
  return result;
}

}  // namespace sluice
