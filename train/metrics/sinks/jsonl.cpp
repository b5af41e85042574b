// metrics.jsonl: one JSON object per line with step, tokens, seconds, and every metric under its
// stable name. Numbers are the shortest decimals that read back as the same bits; a number that is
// not finite is null.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/support/error.h"
#include "train/metrics/sink.h"

namespace sluice {
namespace {

using nlohmann::json;
constexpr RaiseError kRaise = raise_as<CheckpointError>;

std::string number_text(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "null";
}

std::string line_of(const Record& record) {
  std::string line = fmt::format("{{\"step\":{},\"tokens\":{},\"seconds\":{}", record.step,
                                 record.tokens, number_text(record.seconds));
  for (const auto& [name, value] : record.values) {
    line += fmt::format(",{}:{}", json(name).dump(), number_text(value));
  }
  for (const Histogram& histogram : record.histograms) {
    std::vector<std::string> counts;
    for (const double count : histogram.counts) counts.push_back(number_text(count));
    line += fmt::format(",{}:[{}]", json(histogram.name).dump(), fmt::join(counts, ","));
  }
  line += "}\n";
  return line;
}

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

class JsonlSink final : public Sink {
 public:
  explicit JsonlSink(const SinkContext& context)
      : files_(*context.files), path_(context.folder / "metrics.jsonl") {}

  void truncate_after(int64_t step) override {
    if (!std::filesystem::exists(path_)) return;
    const std::string text = read_file(path_, kRaise);
    const std::string kept = records_up_to(text, step);
    if (kept != text) write_file_atomically(files_, path_, bytes_of(kept), kRaise);
  }
  void record(const Record& record) override { file().append(bytes_of(line_of(record))); }
  void flush() override { file().sync(); }

 private:
  // Opened late: truncation replaces the file.
  AppendFile& file() {
    if (!file_) file_.emplace(files_, path_, kRaise);
    return *file_;
  }
  FileSystem& files_;
  std::filesystem::path path_;
  std::optional<AppendFile> file_;
};

}  // namespace

std::unique_ptr<Sink> make_jsonl_sink(const SinkContext& context) {
  return std::make_unique<JsonlSink>(context);
}

}  // namespace sluice
