#pragma once
// Fills a config from a list of keys and values, as a recipe would; a key that no field reads fails
// the test.
//
//   auto config = make_config<SourceConfig>({{"path", "a.txt"}, {"weight", 2.0}});

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <variant>

#include "autograd/support/fields.h"

namespace sluice::testing {

using FieldValue = std::variant<bool, int64_t, double, std::string>;
using FieldValues = std::map<std::string, FieldValue, std::less<>>;

/// Visits one key at a time and knows no kinds: `seen` is called for each.
class AnyField : public FieldVisitor {
 public:
  virtual void seen(std::string_view key) = 0;

  void boolean(FieldInfo info, bool&) override { seen(info.key); }
  void integer(FieldInfo info, int64_t&, IntegerRange) override { seen(info.key); }
  void number(FieldInfo info, double&, NumberRange) override { seen(info.key); }
  void text(FieldInfo info, std::string&) override { seen(info.key); }
  void path(FieldInfo info, std::string&) override { seen(info.key); }
  void optional_integer(FieldInfo info, std::optional<int64_t>&, IntegerRange,
                        std::string_view) override {
    seen(info.key);
  }
  void optional_number(FieldInfo info, std::optional<double>&, NumberRange,
                       std::string_view) override {
    seen(info.key);
  }
  void optional_path(FieldInfo info, std::optional<std::string>&, std::string_view) override {
    seen(info.key);
  }
  void word(FieldInfo info, std::string&, std::span<const std::string_view>) override {
    seen(info.key);
  }
  void scheduled(FieldInfo info, Scheduled&, NumberRange) override { seen(info.key); }
  void optional_scheduled(FieldInfo info, std::optional<Scheduled>&, NumberRange,
                          std::string_view) override {
    seen(info.key);
  }
  void duration(FieldInfo info, Duration&) override { seen(info.key); }
  void optional_duration(FieldInfo info, std::optional<Duration>&, std::string_view) override {
    seen(info.key);
  }
  void numbers(FieldInfo info, std::vector<double>&, NumberRange) override { seen(info.key); }
  void integers(FieldInfo info, std::vector<int64_t>&, IntegerRange) override { seen(info.key); }
  void texts(FieldInfo info, std::vector<std::string>&) override { seen(info.key); }
  void object(FieldInfo info, Configurable&) override { seen(info.key); }
  void optional_object(FieldInfo info, std::shared_ptr<Configurable>&,
                       const std::function<std::shared_ptr<Configurable>()>&,
                       std::string_view) override {
    seen(info.key);
  }
  void object_list(FieldInfo info, std::vector<std::shared_ptr<Configurable>>&,
                   const std::function<std::shared_ptr<Configurable>()>&) override {
    seen(info.key);
  }
  void tagged(FieldInfo info, Tagged&, std::span<const Choice>) override { seen(info.key); }
  void tagged_list(FieldInfo info, std::vector<Tagged>&, std::span<const Choice>) override {
    seen(info.key);
  }
  void tagged_map(FieldInfo info, TaggedMap&, std::span<const Choice>) override { seen(info.key); }
};

class KeyCollector final : public AnyField {
 public:
  void seen(std::string_view key) override { keys.emplace_back(key); }
  std::vector<std::string> keys;
};

/// Sets scalars; nested fields keep what the test gave the struct directly.
class FieldSetter final : public AnyField {
 public:
  explicit FieldSetter(const FieldValues& values) : values_(values) {}
  ~FieldSetter() override {
    for (const auto& [key, value] : values_) EXPECT_TRUE(read_.contains(key)) << "unread " << key;
  }

  void seen(std::string_view) override {}
  void boolean(FieldInfo info, bool& value) override { set(info, value); }
  void integer(FieldInfo info, int64_t& value, IntegerRange) override { set(info, value); }
  void number(FieldInfo info, double& value, NumberRange) override { set(info, value); }
  void text(FieldInfo info, std::string& value) override { set(info, value); }
  void path(FieldInfo info, std::string& value) override { set(info, value); }
  void word(FieldInfo info, std::string& value, std::span<const std::string_view>) override {
    set(info, value);
  }
  void optional_integer(FieldInfo info, std::optional<int64_t>& value, IntegerRange,
                        std::string_view) override {
    set_optional(info, value);
  }
  void optional_number(FieldInfo info, std::optional<double>& value, NumberRange,
                       std::string_view) override {
    set_optional(info, value);
  }
  void optional_path(FieldInfo info, std::optional<std::string>& value, std::string_view) override {
    set_optional(info, value);
  }

 private:
  template <class T>
  void set(const FieldInfo& info, T& value) {
    const auto found = values_.find(info.key);
    if (found == values_.end()) return;
    read_.emplace(info.key);
    value = std::get<T>(found->second);
  }
  template <class T>
  void set_optional(const FieldInfo& info, std::optional<T>& value) {
    T read{};
    if (!values_.contains(info.key)) return;
    set(info, read);
    value = read;
  }

  const FieldValues& values_;
  std::set<std::string, std::less<>> read_;
};

template <class Config>
Config make_config(const FieldValues& values) {
  Config config;
  FieldSetter setter(values);
  config.fields(setter);
  return config;
}

inline void set_fields(Configurable& config, const FieldValues& values) {
  FieldSetter setter(values);
  config.fields(setter);
}

}  // namespace sluice::testing
