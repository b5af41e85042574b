#pragma once
// The one list of a config. Every component owns a small struct with defaults and one `fields` function; parsing,
// located errors, the JSON schema, the resolved recipe saved with a run and the documentation come from it.
//
//   struct RouterZLossConfig : Configurable {
//     Scheduled coefficient = 1e-3;
//     void fields(FieldVisitor& v) override {
//       v.scheduled({"coefficient", "weight of the mean squared log-sum-exp"}, coefficient, {.min = 0});
//     }
//   };
//
// Only `train` knows YAML; this header knows no format.

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

class FieldVisitor;
class Scheduled;
struct Duration;

/// A config: something with a list of fields.
class Configurable {
 public:
  virtual ~Configurable() = default;
  virtual void fields(FieldVisitor& visitor) = 0;
  /// A rule over several fields, called after they were read: returns "" or one sentence naming key, found and
  /// allowed ("top_k: found 12, allowed 1 to 8 (num_experts)").
  [[nodiscard]] virtual std::string check() const { return {}; }
};

/// A key with its one-line documentation (meaning, unit).
struct FieldInfo {
  std::string_view key;
  std::string_view doc;
  bool required = false;
};

struct IntegerRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};

struct NumberRange {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool exclusive_min = false;
};

/// One alternative of a tagged union: `{type: <name>, ...fields of the config...}`.
struct Choice {
  std::string_view name;
  std::string_view doc;  // one line; for a published method it ends in the paper
  std::unique_ptr<Configurable> (*make_config)();
};

/// A tagged union's value: which choice, and its config.
struct Tagged {
  std::string type;
  // Shared: configs are immutable once read, and copies of a recipe share them.
  std::shared_ptr<Configurable> config;
};

/// Tagged values by names of the recipe's own.
using TaggedMap = std::vector<std::pair<std::string, Tagged>>;

/// Visits every field of a config: a reader sets the members, a writer prints them.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  virtual void boolean(FieldInfo info, bool& value) = 0;
  virtual void integer(FieldInfo info, int64_t& value, IntegerRange range) = 0;
  virtual void number(FieldInfo info, double& value, NumberRange range) = 0;
  virtual void text(FieldInfo info, std::string& value) = 0;
  /// A file or folder: relative to the recipe that names it, or to the current folder in a `--set`. Read as an absolute path.
  virtual void path(FieldInfo info, std::string& value) = 0;
  /// An integer, or the word `absent` ("none", "auto"), read as nullopt.
  virtual void optional_integer(FieldInfo info, std::optional<int64_t>& value, IntegerRange range,
                                std::string_view absent) = 0;
  virtual void optional_number(FieldInfo info, std::optional<double>& value, NumberRange range,
                               std::string_view absent) = 0;
  virtual void optional_path(FieldInfo info, std::optional<std::string>& value,
                             std::string_view absent) = 0;
  /// One word of `allowed`.
  virtual void word(FieldInfo info, std::string& value,
                    std::span<const std::string_view> allowed) = 0;
  virtual void scheduled(FieldInfo info, Scheduled& value, NumberRange range) = 0;
  virtual void optional_scheduled(FieldInfo info, std::optional<Scheduled>& value,
                                  NumberRange range, std::string_view absent) = 0;
  virtual void duration(FieldInfo info, Duration& value) = 0;
  virtual void optional_duration(FieldInfo info, std::optional<Duration>& value,
                                 std::string_view absent) = 0;
  virtual void numbers(FieldInfo info, std::vector<double>& value, NumberRange range) = 0;
  virtual void integers(FieldInfo info, std::vector<int64_t>& value, IntegerRange range) = 0;
  virtual void texts(FieldInfo info, std::vector<std::string>& value) = 0;
  /// A nested mapping.
  virtual void object(FieldInfo info, Configurable& value) = 0;
  /// A nested mapping, or the word `absent`: `make` creates the config that is then filled.
  virtual void optional_object(FieldInfo info, std::shared_ptr<Configurable>& value,
                               const std::function<std::shared_ptr<Configurable>()>& make,
                               std::string_view absent) = 0;
  /// A list of mappings of one kind.
  virtual void object_list(FieldInfo info, std::vector<std::shared_ptr<Configurable>>& value,
                           const std::function<std::shared_ptr<Configurable>()>& make) = 0;
  /// `{type: ...}`.
  virtual void tagged(FieldInfo info, Tagged& value, std::span<const Choice> choices) = 0;
  /// One `{type: ...}` or a list of them.
  virtual void tagged_list(FieldInfo info, std::vector<Tagged>& value,
                           std::span<const Choice> choices) = 0;
  /// A mapping whose keys the recipe chooses, of `{type: ...}` each, in the recipe's order.
  virtual void tagged_map(FieldInfo info, TaggedMap& value, std::span<const Choice> choices) = 0;

  /// An enum by its words: v.enumeration({"scores", "..."}, scores, {{"softmax", S::softmax}, ...}).
  template <class E>
  void enumeration(FieldInfo info, E& value,
                   std::initializer_list<std::pair<std::string_view, E>> words) {
    std::vector<std::string_view> allowed;
    std::string current;
    for (const auto& [name, option] : words) {
      allowed.push_back(name);
      if (option == value) current = name;
    }
    word(info, current, allowed);
    for (const auto& [name, option] : words) {
      if (name == current) value = option;
    }
  }
};

}  // namespace sluice
