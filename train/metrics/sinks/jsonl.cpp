// metrics.jsonl: one JSON object per line with step, tokens, seconds, and every metric under its
// stable name. Numbers are the shortest decimals that read back as the same bits; a number that is
// not finite is null.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "train/metrics/json_lines.h"
#include "train/metrics/sink.h"

namespace sluice {
namespace {

using nlohmann::json;

std::string line_of(const Record& record) {
  std::string line = fmt::format("{{\"step\":{},\"tokens\":{},\"seconds\":{}", record.step,
                                 record.tokens, json_number(record.seconds));
  for (const auto& [name, value] : record.values) {
    line += fmt::format(",{}:{}", json(name).dump(), json_number(value));
  }
  for (const Histogram& histogram : record.histograms) {
    std::vector<std::string> counts;
    for (const double count : histogram.counts) counts.push_back(json_number(count));
    line += fmt::format(",{}:[{}]", json(histogram.name).dump(), fmt::join(counts, ","));
  }
  line += "}\n";
  return line;
}

class JsonlSink final : public Sink {
 public:
  explicit JsonlSink(const SinkContext& context)
      : lines_(*context.files, context.folder / "metrics.jsonl") {}

  void truncate_after(int64_t step) override { lines_.truncate_after(step); }
  void record(const Record& record) override { lines_.append(line_of(record)); }
  void flush() override { lines_.sync(); }

 private:
  JsonLines lines_;
};

}  // namespace

std::unique_ptr<Sink> make_jsonl_sink(const SinkContext& context) {
  return std::make_unique<JsonlSink>(context);
}

}  // namespace sluice
