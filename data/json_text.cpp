#include "data/json_text.h"

#include <array>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "autograd/support/error.h"

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

json parse_json(std::string_view text, const std::string& name, RaiseError raise) {
  const auto require = [&](bool is_so, const auto& what) {
    if (!is_so) raise(name.empty() ? what() : fmt::format("{}: {}", name, what()));
  };
  std::vector<std::unordered_set<std::string>> names;  // of the objects that are open
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        require(depth < kMaxJsonDepth, [] {
          return fmt::format("its JSON nests deeper than {} levels", kMaxJsonDepth);
        });
        if (event == json::parse_event_t::object_start) names.emplace_back();
        break;
      case json::parse_event_t::object_end:
        names.pop_back();
        break;
      case json::parse_event_t::key: {
        const auto& key = value.get_ref<const std::string&>();
        require(names.back().insert(key).second, [&] {
          return fmt::format("its JSON gives \"{}\" twice in one object", key.substr(0, 200));
        });
        break;
      }
      default:
        break;
    }
    return true;
  };
  std::string problem;
  try {
    return json::parse(text, watch);
  } catch (const json::parse_error& error) {
    problem = fmt::format("is no valid JSON at byte {}", error.byte);
  } catch (const json::exception& error) {
    problem = fmt::format("its JSON cannot be read ({})", error.what());
  }
  require(false, [&] { return problem; });
  return {};
}

json read_json_file(const std::filesystem::path& path, RaiseError raise, int64_t max_bytes) {
  std::error_code unreadable;
  const auto bytes = std::filesystem::file_size(path, unreadable);
  if (!unreadable && bytes > static_cast<uint64_t>(max_bytes)) {
    raise(fmt::format("{}: {} bytes, allowed at most {}", path.string(), bytes, max_bytes));
  }
  return parse_json(with_quoted_infinities(read_file(path, raise)), path.string(), raise);
}

}  // namespace sluice
