#include "train/schema.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <typeindex>

#include "autograd/support/scheduled.h"
#include "optim/schedules.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;

Json integer_schema(IntegerRange range) {
  Json schema = {{"type", "integer"}};
  if (range.min != std::numeric_limits<int64_t>::min()) schema["minimum"] = range.min;
  if (range.max != std::numeric_limits<int64_t>::max()) schema["maximum"] = range.max;
  return schema;
}

Json number_schema(NumberRange range) {
  Json schema = {{"type", "number"}};
  if (std::isfinite(range.min)) {
    schema[range.exclusive_min ? "exclusiveMinimum" : "minimum"] = range.min;
  }
  if (std::isfinite(range.max)) schema["maximum"] = range.max;
  return schema;
}

Json any_of(Json first, Json second) {
  return {{"anyOf", Json::array({std::move(first), std::move(second)})}};
}

Json or_word(Json schema, std::string_view word) {
  return any_of(std::move(schema), {{"const", word}});
}

Json reference(std::string_view name) { return {{"$ref", fmt::format("#/$defs/{}", name)}}; }

Json list_of(Json items) { return {{"type", "array"}, {"items", std::move(items)}}; }

// The grammar of Duration::parse.
Json duration_schema() {
  return any_of(
      {{"type", "integer"}, {"minimum", 0}},
      {{"type", "string"},
       {"pattern", "^[0-9]*\\.?[0-9]+([eE][+-]?[0-9]+)?[kMG]? *(steps?|tokens?|epochs?|%)?$"}});
}

/// What the sections of one schema share.
struct SharedParts {
  /// Configs being written: one that holds its own kind is written once per path, then as any mapping.
  std::vector<std::type_index> open;
  /// Unions under "$defs": many sections have the same one. By its choices and the choice that may
  /// leave its type out, the name of its definition.
  std::map<std::pair<const Choice*, std::string>, std::string> unions;
  Json definitions = Json::object();
};

class SchemaVisitor : public FieldVisitor {
 public:
  explicit SchemaVisitor(SharedParts& shared) : shared_(shared) {}

  Json properties = Json::object();
  Json required = Json::array();

  void boolean(FieldInfo info, bool& value) override { add(info, {{"type", "boolean"}}, value); }
  void integer(FieldInfo info, int64_t& value, IntegerRange range) override {
    add(info, integer_schema(range), value);
  }
  void number(FieldInfo info, double& value, NumberRange range) override {
    add(info, number_schema(range), value);
  }
  void text(FieldInfo info, std::string& value) override { add(info, {{"type", "string"}}, value); }
  void path(FieldInfo info, std::string& value) override {
    Json schema = {{"type", "string"}};
    if (info.required) schema["minLength"] = 1;
    add(info, std::move(schema), value);
  }

  void optional_integer(FieldInfo info, std::optional<int64_t>& value, IntegerRange range,
                        std::string_view absent) override {
    add(info, or_word(integer_schema(range), absent), value ? Json(*value) : Json(absent));
  }
  void optional_number(FieldInfo info, std::optional<double>& value, NumberRange range,
                       std::string_view absent) override {
    add(info, or_word(number_schema(range), absent), value ? Json(*value) : Json(absent));
  }
  void optional_path(FieldInfo info, std::optional<std::string>& value,
                     std::string_view absent) override {
    // The absent word is a string too; the schema says so for the reader's sake.
    add(info, any_of({{"const", absent}}, {{"type", "string"}, {"minLength", 1}}),
        value ? Json(*value) : Json(absent));
  }
  void word(FieldInfo info, std::string& value,
            std::span<const std::string_view> allowed) override {
    add(info, {{"enum", std::vector<std::string>(allowed.begin(), allowed.end())}}, value);
  }
  void scheduled(FieldInfo info, Scheduled& value, NumberRange range) override {
    add(info, any_of(number_schema(range), reference("schedule")),
        value.is_constant() ? Json(value.constant()) : Json());
  }
  void optional_scheduled(FieldInfo info, std::optional<Scheduled>& value, NumberRange range,
                          std::string_view absent) override {
    Json present = !value ? Json(absent) : value->is_constant() ? Json(value->constant()) : Json();
    add(info, or_word(any_of(number_schema(range), reference("schedule")), absent),
        std::move(present));
  }
  void duration(FieldInfo info, Duration& value) override {
    add(info, reference("duration"), value.to_string());
  }
  void optional_duration(FieldInfo info, std::optional<Duration>& value,
                         std::string_view absent) override {
    add(info, or_word(reference("duration"), absent),
        value ? Json(value->to_string()) : Json(absent));
  }

  void numbers(FieldInfo info, std::vector<double>& value, NumberRange range) override {
    add(info, list_of(number_schema(range)), value);
  }
  void integers(FieldInfo info, std::vector<int64_t>& value, IntegerRange range) override {
    add(info, list_of(integer_schema(range)), value);
  }
  void texts(FieldInfo info, std::vector<std::string>& value) override {
    add(info, list_of({{"type", "string"}}), value);
  }

  void object(FieldInfo info, Configurable& value) override {
    add(info, config_schema(value, shared_), {});
  }
  void optional_object(FieldInfo info, std::shared_ptr<Configurable>& value,
                       const std::function<std::shared_ptr<Configurable>()>& make,
                       std::string_view absent) override {
    add(info, or_word(config_schema(*make(), shared_), absent), value ? Json() : Json(absent));
  }
  void object_list(FieldInfo info, std::vector<std::shared_ptr<Configurable>>&,
                   const std::function<std::shared_ptr<Configurable>()>& make) override {
    add(info, list_of(config_schema(*make(), shared_)), {});
  }
  void tagged(FieldInfo info, Tagged& value, std::span<const Choice> choices) override {
    add(info, union_reference(info.key, choices, value.type, shared_), {});
  }
  void tagged_list(FieldInfo info, std::vector<Tagged>&, std::span<const Choice> choices) override {
    Json one = union_reference(info.key, choices, {}, shared_);
    Json many = list_of(one);
    add(info, any_of(std::move(one), std::move(many)), {});
  }
  void tagged_map(FieldInfo info, TaggedMap&, std::span<const Choice> choices) override {
    add(info,
        {{"type", "object"},
         {"additionalProperties", union_reference(info.key, choices, {}, shared_)}},
        {});
  }

  static Json config_schema(Configurable& config, SharedParts& shared);
  /// `default_type` is the choice that may leave its type out; "" for none.
  static Json union_schema(std::span<const Choice> choices, std::string_view default_type,
                           SharedParts& shared);
  /// The same as a reference to its definition, which the first one to ask for it names.
  static Json union_reference(std::string_view key, std::span<const Choice> choices,
                              std::string_view default_type, SharedParts& shared);

 private:
  // A required field has no default; neither has one whose default is null.
  void add(const FieldInfo& info, Json schema, Json default_value) {
    Json property;
    property["description"] = info.doc;
    property.update(schema);
    if (info.required) {
      required.push_back(info.key);
    } else if (!default_value.is_null()) {
      property["default"] = std::move(default_value);
    }
    properties[std::string(info.key)] = std::move(property);
  }

  SharedParts& shared_;
};

Json SchemaVisitor::config_schema(Configurable& config, SharedParts& shared) {
  std::vector<std::type_index>& open = shared.open;
  const std::type_index type = typeid(config);
  if (std::find(open.begin(), open.end(), type) != open.end()) return {{"type", "object"}};
  open.push_back(type);
  SchemaVisitor visitor(shared);
  config.fields(visitor);
  open.pop_back();

  Json schema = {{"type", "object"}, {"properties", std::move(visitor.properties)}};
  if (!visitor.required.empty()) schema["required"] = std::move(visitor.required);
  schema["additionalProperties"] = false;
  return schema;
}

Json SchemaVisitor::union_schema(std::span<const Choice> choices, std::string_view default_type,
                                 SharedParts& shared) {
  Json alternatives = Json::array();
  for (const Choice& choice : choices) {
    Json schema = config_schema(*choice.make_config(), shared);
    Json properties = {{"type", {{"const", choice.name}}}};
    if (schema.contains("properties")) properties.update(schema["properties"]);
    Json required = Json::array();
    if (choice.name != default_type) required.push_back("type");
    if (schema.contains("required")) {
      for (const Json& key : schema["required"]) required.push_back(key);
    }
    Json alternative = {
        {"description", choice.doc}, {"type", "object"}, {"properties", properties}};
    if (!required.empty()) alternative["required"] = required;
    if (schema.contains("additionalProperties")) alternative["additionalProperties"] = false;
    alternatives.push_back(std::move(alternative));
  }
  return {{"oneOf", std::move(alternatives)}};
}

Json SchemaVisitor::union_reference(std::string_view key, std::span<const Choice> choices,
                                    std::string_view default_type, SharedParts& shared) {
  const auto [at, is_new] =
      shared.unions.try_emplace({choices.data(), std::string(default_type)}, "");
  if (is_new) {
    std::string name(key);
    for (int other = 2; shared.definitions.contains(name); ++other) {
      name = fmt::format("{}_{}", key, other);
    }
    at->second = name;
    shared.definitions[name] = nullptr;  // keeps its place while its choices are written
    const auto open = std::exchange(shared.open, {});
    shared.definitions[name] = union_schema(choices, default_type, shared);
    shared.open = open;
  }
  return reference(at->second);
}

}  // namespace

std::string write_json_schema(Configurable& config, std::string_view title) {
  SharedParts shared;
  Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", title}};
  schema.update(SchemaVisitor::config_schema(config, shared));
  schema["$defs"] = {{"duration", duration_schema()},
                     {"schedule", SchemaVisitor::union_schema(schedule_choices(), {}, shared)}};
  schema["$defs"].update(shared.definitions);
  return schema.dump(2) + '\n';
}

}  // namespace sluice
