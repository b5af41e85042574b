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

class FieldSetter final : public FieldVisitor {
 public:
  explicit FieldSetter(const FieldValues& values) : values_(values) {}
  ~FieldSetter() override {
    for (const auto& [key, value] : values_) EXPECT_TRUE(read_.contains(key)) << "unread " << key;
  }

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
  // Nested and scheduled fields keep what the test gave the struct directly.
  void scheduled(FieldInfo, Scheduled&, NumberRange) override {}
  void duration(FieldInfo, Duration&) override {}
  void optional_duration(FieldInfo, std::optional<Duration>&, std::string_view) override {}
  void numbers(FieldInfo, std::vector<double>&, NumberRange) override {}
  void integers(FieldInfo, std::vector<int64_t>&, IntegerRange) override {}
  void texts(FieldInfo, std::vector<std::string>&) override {}
  void object(FieldInfo, Configurable&) override {}
  void optional_object(FieldInfo, std::shared_ptr<Configurable>&,
                       const std::function<std::shared_ptr<Configurable>()>&,
                       std::string_view) override {}
  void object_list(FieldInfo, std::vector<std::shared_ptr<Configurable>>&,
                   const std::function<std::shared_ptr<Configurable>()>&) override {}
  void tagged(FieldInfo, Tagged&, std::span<const Choice>) override {}
  void tagged_list(FieldInfo, std::vector<Tagged>&, std::span<const Choice>) override {}

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
