#pragma once
// config.json of a model, key by key, with errors that name the key.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// Looks at a JSON object that outlives it. Every read throws CheckpointError, "config.json:
/// hidden_size: found \"a\", allowed a whole number from 1", when the key is missing where it must be
/// there or holds something else. A key that holds null counts as absent.
class ConfigReader {
 public:
  /// `name` (a file) and, for an object inside it, `prefix` ("rope_scaling.") stand in messages.
  ConfigReader(const nlohmann::json& object, std::string name, std::string prefix = {});

  [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }
  /// Where a size is read: 1 to 2^31 - 1 unless said otherwise.
  [[nodiscard]] int64_t integer(std::string_view key, int64_t min = 1) const;
  [[nodiscard]] int64_t integer_or(std::string_view key, int64_t absent, int64_t min = 1) const;
  [[nodiscard]] std::optional<int64_t> optional_integer(std::string_view key) const;
  [[nodiscard]] double number(std::string_view key) const;
  [[nodiscard]] double number_or(std::string_view key, double absent) const;
  [[nodiscard]] bool boolean_or(std::string_view key, bool absent) const;
  [[nodiscard]] std::string text_or(std::string_view key, std::string_view absent) const;
  [[nodiscard]] std::vector<int64_t> integers_or_none(std::string_view key) const;
  [[nodiscard]] std::vector<double> numbers_or_none(std::string_view key) const;
  [[nodiscard]] std::optional<ConfigReader> object(std::string_view key) const;

  /// Throws, saying what this program has instead, unless the key is absent or holds `only`.
  void require(std::string_view key, const nlohmann::json& only, std::string_view why) const;
  /// Throws CheckpointError: "config.json: <key>: found <value>, <allowed>".
  [[noreturn]] void refuse(std::string_view key, std::string_view allowed) const;
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  [[nodiscard]] const nlohmann::json* find(std::string_view key) const;
  [[nodiscard]] double as_number(std::string_view key, const nlohmann::json& value) const;

  const nlohmann::json* object_;
  std::string name_;
  std::string prefix_;
};

}  // namespace sluice
