// routing.jsonl: what routers did, one JSON object per line; routing_record.h has the fields. The
// file begins with the first record: a dense model has none.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "train/metrics/json_lines.h"
#include "train/metrics/sink.h"

namespace sluice {
namespace {

using nlohmann::json;

std::string numbers(const std::vector<int64_t>& values) {
  return fmt::format("[{}]", fmt::join(values, ","));
}

std::string numbers(const std::vector<double>& values) {
  std::vector<std::string> texts;
  for (const double value : values) texts.push_back(json_number(value));
  return fmt::format("[{}]", fmt::join(texts, ","));
}

template <class Row>
std::string rows(const std::vector<Row>& layers) {
  std::vector<std::string> texts;
  for (const Row& layer : layers) texts.push_back(numbers(layer));
  return fmt::format("[{}]", fmt::join(texts, ","));
}

/// [E * E] as E rows of E.
std::string matrix(const std::vector<int64_t>& counts) {
  size_t experts = 0;
  while (experts * experts < counts.size()) ++experts;
  CountsPerLayer lines;
  for (size_t i = 0; i < experts; ++i) {
    const auto begin = counts.begin() + static_cast<std::ptrdiff_t>(i * experts);
    lines.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(experts));
  }
  return rows(lines);
}

std::string fields_of(const LoadRecord& record) {
  return fmt::format(R"("kind":"load","step":{},"tokens":{},"load":{})", record.step, record.tokens,
                     rows(record.load));
}

std::string fields_of(const ExpertsRecord& record) {
  return fmt::format(R"("kind":"experts","step":{},"gradient_share":{},"update_ratio":{})",
                     record.step, rows(record.gradient_share), rows(record.update_ratio));
}

std::string fields_of(const ProbeRecord& record) {
  std::string text = fmt::format(R"("kind":"probe","step":{},"tokens":{},"top_k":{},"chosen":{})",
                                 record.step, record.tokens, record.top_k, rows(record.chosen));
  if (record.coactivation) {
    std::vector<std::string> layers;
    for (const auto& counts : *record.coactivation) layers.push_back(matrix(counts));
    text += fmt::format(R"(,"coactivation":[{}])", fmt::join(layers, ","));
  }
  std::vector<std::string> domains;
  for (const ProbeRecord::Domain& domain : record.domains) {
    domains.push_back(fmt::format(R"({}:{{"tokens":{},"chosen":{}}})", json(domain.name).dump(),
                                  domain.tokens, rows(domain.chosen)));
  }
  return text + fmt::format(R"(,"domains":{{{}}})", fmt::join(domains, ","));
}

std::string fields_of(const AlarmRecord& record) {
  return fmt::format(
      R"("kind":"alarm","step":{},"name":{},"layer":{},"value":{},"threshold":{},"advice":{})",
      record.step, json(record.name).dump(),
      record.layer ? fmt::format("{}", *record.layer) : "null", json_number(record.value),
      json_number(record.threshold), json(record.advice).dump());
}

class RoutingSink final : public Sink {
 public:
  explicit RoutingSink(const SinkContext& context)
      : lines_(*context.files, context.folder / "routing.jsonl") {}

  void truncate_after(int64_t step) override { lines_.truncate_after(step); }
  void record(const Record& /*record*/) override {}
  void routing(const RoutingRecord& record) override {
    std::visit([&](const auto& each) { lines_.append(fmt::format("{{{}}}\n", fields_of(each))); },
               record);
    is_written_ = true;
  }
  void flush() override {
    if (is_written_) lines_.sync();
  }

 private:
  JsonLines lines_;
  bool is_written_ = false;  // by this process
};

}  // namespace

std::unique_ptr<Sink> make_routing_sink(const SinkContext& context) {
  return std::make_unique<RoutingSink>(context);
}

}  // namespace sluice
