#include "train/metrics/read_json_lines.h"

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice {
namespace {

using nlohmann::json;

/// The beginning of a line, for a message.
std::string excerpt(std::string_view line) {
  constexpr size_t kLongest = 40;
  std::string text(line.substr(0, kLongest));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
  }
  return line.size() > kLongest ? text + "..." : text;
}

[[noreturn]] void refuse(const std::filesystem::path& path, int64_t number,
                         const std::string& problem) {
  throw DataError(fmt::format("{}:{}: {}; the file is damaged: remove the line to do without it",
                              path.string(), number, problem));
}

}  // namespace

void read_json_lines(const std::filesystem::path& path,
                     const std::function<void(const json&)>& consume) {
  int64_t number = 0;
  const auto consume_line = [&](std::string_view line) {
    ++number;
    const json record = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object()) refuse(path, number, "no JSON object: " + excerpt(line));
    try {
      consume(record);
    } catch (const json::exception& error) {
      // "[json.exception.type_error.302] type must be number, but is string"
      const std::string_view what = error.what();
      refuse(path, number, std::string(what.substr(std::min(what.find("] ") + 2, what.size()))));
    } catch (const DataError& error) {
      refuse(path, number, error.what());
    }
  };
  std::string open_line;
  read_file_in_pieces(path, raise_as<DataError>, [&](std::span<const std::byte> piece) {
    std::string_view text(reinterpret_cast<const char*>(piece.data()), piece.size());
    for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
      if (open_line.empty()) {
        consume_line(text.substr(0, end));
      } else {
        open_line += text.substr(0, end);
        consume_line(open_line);
        open_line.clear();
      }
      text.remove_prefix(end + 1);
    }
    open_line += text;
  });
}

std::optional<json> last_json_line(const std::filesystem::path& path,
                                   const std::function<bool(const json&)>& wanted) {
  const std::string text = read_file(path, raise_as<DataError>);
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t begin = rest.substr(0, rest.size() - 1).rfind('\n') + 1;
    json record = json::parse(rest.substr(begin), nullptr, /*allow_exceptions=*/false);
    if (record.is_object() && wanted(record)) return record;
    rest = rest.substr(0, begin);
  }
  return std::nullopt;
}

}  // namespace sluice
