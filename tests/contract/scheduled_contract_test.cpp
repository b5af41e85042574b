// Every number of a router, a balancing method or the expert layer that may vary takes a schedule,
// over steps and over tokens.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <ostream>

#include "autograd/support/scheduled.h"
#include "balance/make.h"
#include "layers/ffns/moe.h"
#include "layers/router.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

/// The scheduled fields of one config: key, range, value.
class ScheduledFields final : public FieldVisitor {
 public:
  struct Field {
    std::string key;
    NumberRange range;
    std::optional<Scheduled> value;
  };
  explicit ScheduledFields(Configurable& config) { config.fields(*this); }
  [[nodiscard]] const std::vector<Field>& fields() const { return fields_; }
  [[nodiscard]] const Field& at(const std::string& key) const {
    for (const Field& field : fields_) {
      if (field.key == key) return field;
    }
    throw std::out_of_range(key);
  }

  void scheduled(FieldInfo info, Scheduled& value, NumberRange range) override {
    fields_.push_back({std::string(info.key), range, value});
  }
  void optional_scheduled(FieldInfo info, std::optional<Scheduled>& value, NumberRange range,
                          std::string_view /*absent*/) override {
    fields_.push_back({std::string(info.key), range, value});
  }
  void boolean(FieldInfo, bool&) override {}
  void integer(FieldInfo, int64_t&, IntegerRange) override {}
  void number(FieldInfo, double&, NumberRange) override {}
  void text(FieldInfo, std::string&) override {}
  void path(FieldInfo, std::string&) override {}
  void optional_integer(FieldInfo, std::optional<int64_t>&, IntegerRange,
                        std::string_view) override {}
  void optional_number(FieldInfo, std::optional<double>&, NumberRange, std::string_view) override {}
  void optional_path(FieldInfo, std::optional<std::string>&, std::string_view) override {}
  void word(FieldInfo, std::string&, std::span<const std::string_view>) override {}
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
  void tagged_map(FieldInfo, TaggedMap&, std::span<const Choice>) override {}

 private:
  std::vector<Field> fields_;
};

struct ScheduledKey {
  std::string name;  // "dense_to_sparse.temperature"
  std::string key;
  NumberRange range;
  std::function<std::unique_ptr<Configurable>()> make;
  friend void PrintTo(const ScheduledKey& key, std::ostream* out) { *out << key.name; }
};

std::vector<ScheduledKey> scheduled_keys() {
  std::vector<ScheduledKey> result;
  const auto add = [&](const std::string& owner,
                       const std::function<std::unique_ptr<Configurable>()>& make) {
    const auto config = make();
    const ScheduledFields scheduled(*config);
    for (const auto& field : scheduled.fields()) {
      result.push_back({owner + "." + field.key, field.key, field.range, make});
    }
  };
  for (const Choice& choice : router_choices()) add(std::string(choice.name), choice.make_config);
  for (const Choice& choice : balance_choices()) add(std::string(choice.name), choice.make_config);
  add("experts", [] { return std::make_unique<ExpertsConfig>(); });
  return result;
}

/// What a key wants beside it.
const std::map<std::string, std::string>& beside() {
  static const std::map<std::string, std::string> result = {
      {"expert_choice.coverage", "over: tokens"},
      {"experts.top_k", "router: {type: top_k, weights: as_is}"}};
  return result;
}

class EveryScheduledKey : public ::testing::TestWithParam<ScheduledKey> {
 protected:
  /// Two numbers of the key's range.
  [[nodiscard]] static std::pair<double, double> ends() {
    const NumberRange& range = GetParam().range;
    const double least = std::isfinite(range.min) ? range.min : -1.0;
    const double greatest = std::isfinite(range.max) ? range.max : least + 2.0;
    return {greatest, range.exclusive_min ? (least + greatest) / 2.0 : least};
  }
  /// The key's value at `progress` when the recipe says so.
  [[nodiscard]] static double value_at(const std::string& yaml, const Progress& progress) {
    const auto config = GetParam().make();
    const auto extra = beside().find(GetParam().name);
    const std::string text =
        GetParam().key + ": " + yaml + (extra == beside().end() ? "" : "\n" + extra->second) + "\n";
    const Diagnostics problems = read_into(*config, parse_yaml(text, "recipe.yaml"));
    EXPECT_TRUE(problems.empty()) << problems.to_string();
    const std::optional<Scheduled> read = ScheduledFields(*config).at(GetParam().key).value;
    return read ? read->at(progress) : std::nan("");
  }
};

TEST_P(EveryScheduledKey, TakesANumber) {
  const double number = ends().first;
  EXPECT_EQ(value_at(fmt::format("{}", number), {.step = 7}), number);
}

TEST_P(EveryScheduledKey, TakesAScheduleOverSteps) {
  const auto [from, to] = ends();
  const std::string yaml =
      fmt::format("{{type: linear, from: {}, to: {}, over: 300 steps}}", from, to);
  EXPECT_DOUBLE_EQ(value_at(yaml, {.step = 0}), from);
  EXPECT_DOUBLE_EQ(value_at(yaml, {.step = 150}), (from + to) / 2.0);
  EXPECT_DOUBLE_EQ(value_at(yaml, {.step = 1000}), to);
}

TEST_P(EveryScheduledKey, TakesAScheduleOverTokens) {
  const auto [from, to] = ends();
  const std::string yaml =
      fmt::format("{{type: linear, from: {}, to: {}, over: 2M tokens}}", from, to);
  EXPECT_DOUBLE_EQ(value_at(yaml, {.step = 999, .tokens = 0}), from);
  EXPECT_DOUBLE_EQ(value_at(yaml, {.step = 0, .tokens = 500'000}), from + (to - from) / 4.0);
  EXPECT_DOUBLE_EQ(value_at(yaml, {.step = 0, .tokens = 3'000'000}), to);
}

INSTANTIATE_TEST_SUITE_P(Keys, EveryScheduledKey, ::testing::ValuesIn(scheduled_keys()),
                         [](const auto& test) {
                           std::string name = test.param.name;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(ScheduledKeys, AreThoseOfTheGates) {
  std::vector<std::string> names;
  for (const ScheduledKey& key : scheduled_keys()) names.push_back(key.name);
  for (const std::string name :
       {"experts.top_k", "experts.capacity_factor", "temperature.temperature", "top_p.threshold",
        "dense_to_sparse.temperature", "dense_to_sparse.threshold", "dense_to_sparse.noise",
        "noisy_top_k.noise", "top_k.jitter", "expert_choice.capacity_factor",
        "sparse_transport.capacity_factor"}) {
    EXPECT_THAT(names, ::testing::Contains(name));
  }
}

}  // namespace
}  // namespace sluice
