#include "train/metrics/json_lines.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using nlohmann::json;
constexpr RaiseError kRaise = raise_as<CheckpointError>;

// The step of a whole record, or nothing for a line that is none.
std::optional<int64_t> step_of(std::string_view line) {
  const json record = json::parse(line, nullptr, false);
  if (!record.is_object()) return std::nullopt;
  const auto step = record.find("step");
  if (step == record.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<int64_t>();
}

// The whole records up to `step`, byte for byte.
std::string records_up_to(std::string_view text, int64_t step) {
  std::string kept;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) break;  // the line that a killed process was writing
    const auto found = step_of(text.substr(0, end));
    if (found && *found <= step) kept.append(text.substr(0, end + 1));
    text.remove_prefix(end + 1);
  }
  return kept;
}

}  // namespace

void JsonLines::truncate_after(int64_t step) {
  if (!std::filesystem::exists(path_)) return;
  const std::string text = read_file(path_, kRaise);
  const std::string kept = records_up_to(text, step);
  if (kept != text) write_file_atomically(files_, path_, bytes_of(kept), kRaise);
}

void JsonLines::append(std::string_view line) { file().append(bytes_of(line)); }
void JsonLines::sync() { file().sync(); }

AppendFile& JsonLines::file() {
  if (!file_) file_.emplace(files_, path_, kRaise);
  return *file_;
}

std::string json_number(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "null";
}

}  // namespace sluice
