#include "train/interchange/json_text.h"

#include <array>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice {
namespace {

using nlohmann::json;

/// `text` with quotes round the numbers that JSON has no word for.
std::string with_quoted_infinities(std::string_view text) {
  constexpr std::array<std::string_view, 3> kWords = {"-Infinity", "Infinity", "NaN"};
  std::string result;
  result.reserve(text.size());
  bool in_text = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_text && text[i] == '\\') {
      result += text.substr(i, 2);
      ++i;
      continue;
    }
    if (text[i] == '"') in_text = !in_text;
    std::string_view word;
    for (const std::string_view candidate : kWords) {
      if (!in_text && word.empty() && text.substr(i).starts_with(candidate)) word = candidate;
    }
    if (word.empty()) {
      result += text[i];
      continue;
    }
    result += fmt::format("\"{}\"", word);
    i += word.size() - 1;
  }
  return result;
}

}  // namespace

json parse_json(std::string_view text, const std::string& name) {
  std::vector<std::unordered_set<std::string>> names;  // of the objects that are open
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        SLUICE_CHECK(CheckpointError, depth < kMaxJsonDepth,
                     "{}: its JSON nests deeper than {} levels", name, kMaxJsonDepth);
        if (event == json::parse_event_t::object_start) names.emplace_back();
        break;
      case json::parse_event_t::object_end:
        names.pop_back();
        break;
      case json::parse_event_t::key: {
        const auto& key = value.get_ref<const std::string&>();
        SLUICE_CHECK(CheckpointError, names.back().insert(key).second,
                     "{}: its JSON gives \"{}\" twice in one object", name, key.substr(0, 200));
        break;
      }
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::parse_error& error) {
    throw CheckpointError(fmt::format("{}: is no valid JSON at byte {}", name, error.byte));
  } catch (const json::exception& error) {
    throw CheckpointError(fmt::format("{}: its JSON cannot be read ({})", name, error.what()));
  }
}

json read_json_file(const std::filesystem::path& path, int64_t max_bytes) {
  std::error_code unreadable;
  const auto bytes = std::filesystem::file_size(path, unreadable);
  SLUICE_CHECK(CheckpointError, unreadable || bytes <= static_cast<uint64_t>(max_bytes),
               "{}: {} bytes, allowed at most {}", path.string(), bytes, max_bytes);
  return parse_json(with_quoted_infinities(read_file(path, raise_as<CheckpointError>)),
                    path.string());
}

}  // namespace sluice
