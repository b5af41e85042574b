#include "tests/support/set_fields.h"

#include <algorithm>

#include "autograd/support/error.h"
#include "autograd/support/scheduled.h"

namespace sluice::testing {
namespace {

using Json = nlohmann::json;

class FieldSetter : public FieldVisitor {
 public:
  explicit FieldSetter(const Json& values) : values_(values) {}

  size_t count() const { return count_; }

  void boolean(FieldInfo info, bool& value) override { set(info, value); }
  void integer(FieldInfo info, int64_t& value, IntegerRange) override { set(info, value); }
  void number(FieldInfo info, double& value, NumberRange) override { set(info, value); }
  void text(FieldInfo info, std::string& value) override { set(info, value); }
  void path(FieldInfo info, std::string& value) override { set(info, value); }
  void optional_integer(FieldInfo info, std::optional<int64_t>& value, IntegerRange,
                        std::string_view absent) override {
    set_optional(info, value, absent);
  }
  void optional_number(FieldInfo info, std::optional<double>& value, NumberRange,
                       std::string_view absent) override {
    set_optional(info, value, absent);
  }
  void optional_path(FieldInfo info, std::optional<std::string>& value,
                     std::string_view absent) override {
    set_optional(info, value, absent);
  }
  void word(FieldInfo info, std::string& value, std::span<const std::string_view> words) override {
    set(info, value);
    SLUICE_INTERNAL_CHECK(std::find(words.begin(), words.end(), value) != words.end(),
                          "{} is no word of {}", value, info.key);
  }
  void scheduled(FieldInfo info, Scheduled& value, NumberRange) override {
    if (const Json* given = find(info)) value = Scheduled(given->get<double>());
  }
  void optional_scheduled(FieldInfo info, std::optional<Scheduled>& value, NumberRange,
                          std::string_view absent) override {
    const Json* given = find(info);
    if (given == nullptr) return;
    value = *given == absent ? std::nullopt : std::optional<Scheduled>(given->get<double>());
  }
  void duration(FieldInfo info, Duration& value) override {
    if (const Json* given = find(info)) value = to_duration(*given);
  }
  void optional_duration(FieldInfo info, std::optional<Duration>& value,
                         std::string_view absent) override {
    const Json* given = find(info);
    if (given == nullptr) return;
    value = *given == absent ? std::nullopt : std::optional(to_duration(*given));
  }
  void numbers(FieldInfo info, std::vector<double>& value, NumberRange) override {
    set(info, value);
  }
  void integers(FieldInfo info, std::vector<int64_t>& value, IntegerRange) override {
    set(info, value);
  }
  void texts(FieldInfo info, std::vector<std::string>& value) override { set(info, value); }
  void object(FieldInfo info, Configurable& value) override {
    if (const Json* given = find(info)) set_fields(value, *given);
  }
  void optional_object(FieldInfo info, std::shared_ptr<Configurable>& value,
                       const std::function<std::shared_ptr<Configurable>()>& make,
                       std::string_view absent) override {
    const Json* given = find(info);
    if (given == nullptr) return;
    value = *given == absent ? nullptr : make();
    if (value) set_fields(*value, *given);
  }
  void object_list(FieldInfo info, std::vector<std::shared_ptr<Configurable>>& value,
                   const std::function<std::shared_ptr<Configurable>()>& make) override {
    const Json* given = find(info);
    if (given == nullptr) return;
    value.clear();
    for (const Json& item : *given) {
      value.push_back(make());
      set_fields(*value.back(), item);
    }
  }
  void tagged(FieldInfo info, Tagged& value, std::span<const Choice> choices) override {
    if (const Json* given = find(info)) value = to_tagged(*given, choices);
  }
  void tagged_list(FieldInfo info, std::vector<Tagged>& value,
                   std::span<const Choice> choices) override {
    const Json* given = find(info);
    if (given == nullptr) return;
    value.clear();
    for (const Json& item : *given) value.push_back(to_tagged(item, choices));
  }
  void tagged_map(FieldInfo info, TaggedMap& value, std::span<const Choice> choices) override {
    const Json* given = find(info);
    if (given == nullptr) return;
    value.clear();
    for (const auto& [key, item] : given->items()) {
      value.emplace_back(key, to_tagged(item, choices));
    }
  }

 private:
  const Json* find(const FieldInfo& info) {
    const auto found = values_.find(info.key);
    if (found == values_.end()) return nullptr;
    ++count_;
    return &*found;
  }
  template <class T>
  void set(const FieldInfo& info, T& value) {
    if (const Json* given = find(info)) value = given->get<T>();
  }
  template <class T>
  void set_optional(const FieldInfo& info, std::optional<T>& value, std::string_view absent) {
    const Json* given = find(info);
    if (given == nullptr) return;
    value = *given == absent ? std::nullopt : std::optional<T>(given->get<T>());
  }
  static Duration to_duration(const Json& given) {
    return Duration::parse(given.is_string() ? given.get<std::string>() : given.dump());
  }
  static Tagged to_tagged(Json given, std::span<const Choice> choices) {
    const std::string type = given.at("type");
    given.erase("type");
    for (const Choice& choice : choices) {
      if (choice.name != type) continue;
      Tagged value{type, choice.make_config()};
      set_fields(*value.config, given);
      return value;
    }
    throw InternalError("no choice is named " + type);
  }

  const Json& values_;
  size_t count_ = 0;
};

}  // namespace

void set_fields(Configurable& config, const nlohmann::json& values) {
  FieldSetter setter(values);
  config.fields(setter);
  SLUICE_INTERNAL_CHECK(setter.count() == values.size(), "{} of {} keys of {} are fields",
                        setter.count(), values.size(), values.dump());
}

}  // namespace sluice::testing
