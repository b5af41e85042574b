#include "train/interchange/config_reader.h"

#include <limits>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();

}  // namespace

ConfigReader::ConfigReader(const json& object, std::string name, std::string prefix)
    : object_(&object), name_(std::move(name)), prefix_(std::move(prefix)) {
  SLUICE_CHECK(CheckpointError, object_->is_object(), "{}: {}found {}, allowed an object", name_,
               prefix_, object_->type_name());
}

const json* ConfigReader::find(std::string_view key) const {
  const auto found = object_->find(std::string(key));
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

void ConfigReader::refuse(std::string_view key, std::string_view allowed) const {
  const json* value = find(key);
  throw CheckpointError(fmt::format(
      "{}: {}{}: {}, {}", name_, prefix_, key,
      value == nullptr
          ? std::string("not given")
          : fmt::format("found {}",
                        value->dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 80)),
      allowed));
}

int64_t ConfigReader::integer(std::string_view key, int64_t min) const {
  const json* value = find(key);
  const bool is_right =
      value != nullptr && value->is_number_integer() &&
      (!value->is_number_unsigned() || value->get<uint64_t>() <= static_cast<uint64_t>(kMaxSize)) &&
      value->get<int64_t>() >= min && value->get<int64_t>() <= kMaxSize;
  if (!is_right) refuse(key, fmt::format("allowed a whole number from {} to {}", min, kMaxSize));
  return value->get<int64_t>();
}

int64_t ConfigReader::integer_or(std::string_view key, int64_t absent, int64_t min) const {
  return has(key) ? integer(key, min) : absent;
}

std::optional<int64_t> ConfigReader::optional_integer(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  return integer(key);
}

double ConfigReader::as_number(std::string_view key, const json& value) const {
  if (value.is_number()) return value.get<double>();
  // What Python writes for numbers that JSON has no word for.
  const json* word =
      value.is_object() && value.contains("__float__") ? &value["__float__"] : &value;
  if (word->is_string() && *word == "Infinity") return std::numeric_limits<double>::infinity();
  if (word->is_string() && *word == "-Infinity") return -std::numeric_limits<double>::infinity();
  refuse(key, "allowed a number");
}

double ConfigReader::number(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) refuse(key, "allowed a number");
  return as_number(key, *value);
}

double ConfigReader::number_or(std::string_view key, double absent) const {
  return has(key) ? number(key) : absent;
}

bool ConfigReader::boolean_or(std::string_view key, bool absent) const {
  const json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) refuse(key, "allowed true or false");
  return value->get<bool>();
}

std::string ConfigReader::text_or(std::string_view key, std::string_view absent) const {
  const json* value = find(key);
  if (value == nullptr) return std::string(absent);
  if (!value->is_string()) refuse(key, "allowed a text");
  return value->get<std::string>();
}

std::vector<int64_t> ConfigReader::integers_or_none(std::string_view key) const {
  const json* value = find(key);
  std::vector<int64_t> result;
  if (value == nullptr) return result;
  if (!value->is_array()) refuse(key, "allowed a list of whole numbers");
  for (const json& item : *value) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > static_cast<uint64_t>(kMaxSize)) {
      refuse(key, "allowed a list of whole numbers from 0");
    }
    result.push_back(item.get<int64_t>());
  }
  return result;
}

std::vector<double> ConfigReader::numbers_or_none(std::string_view key) const {
  const json* value = find(key);
  std::vector<double> result;
  if (value == nullptr) return result;
  if (!value->is_array()) refuse(key, "allowed a list of numbers");
  for (const json& item : *value) result.push_back(as_number(key, item));
  return result;
}

std::optional<ConfigReader> ConfigReader::object(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) refuse(key, "allowed an object");
  return ConfigReader(*value, name_, fmt::format("{}{}.", prefix_, key));
}

void ConfigReader::require(std::string_view key, const json& only, std::string_view why) const {
  const json* value = find(key);
  if (value == nullptr || *value == only) return;
  refuse(key, fmt::format("allowed {} ({})", only.dump(), why));
}

}  // namespace sluice
