#include "train/report/run_records.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "train/metrics/read_json_lines.h"

namespace sluice::report {
namespace {

using nlohmann::json;

/// Numbers that are not finite are written as null.
double number(const json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

std::vector<double> numbers(const json& values) {
  std::vector<double> result;
  for (const json& value : values) result.push_back(number(value));
  return result;
}

PerExpert per_expert(const json& layers) {
  PerExpert result;
  for (const json& layer : layers) result.push_back(numbers(layer));
  return result;
}

bool same_shape(const PerExpert& a, const PerExpert& b) {
  return std::ranges::equal(a, b, {}, &std::vector<double>::size, &std::vector<double>::size);
}

void add_into(PerExpert& sum, const PerExpert& more) {
  for (size_t layer = 0; layer < sum.size(); ++layer) {
    for (size_t expert = 0; expert < sum[layer].size(); ++expert) {
      sum[layer][expert] += more[layer][expert];
    }
  }
}

constexpr std::string_view kExpertLoads = "load/experts/";

/// The arrays load/experts/<layer> of a step's record; empty without.
PerExpert loads_of_step(const json& record) {
  PerExpert loads;
  for (;;) {
    const auto counts = record.find(fmt::format("{}{}", kExpertLoads, loads.size()));
    if (counts == record.end()) return loads;
    loads.push_back(numbers(*counts));
  }
}

void add_metrics(const json& record, RunRecords& records) {
  records.step = record.at("step").get<int64_t>();
  records.tokens = record.at("tokens").get<int64_t>();
  records.seconds = number(record.at("seconds"));
  const auto step = static_cast<double>(records.step);
  for (const auto& [name, value] : record.items()) {
    if (name == "step" || value.is_array()) continue;
    records.series[name].add(step, number(value));
  }
  PerExpert loads = loads_of_step(record);
  if (!loads.empty()) records.loads.add(records.step, std::move(loads));
}

Probe probe_of(const json& record) {
  Probe probe{.step = record.at("step").get<int64_t>(),
              .tokens = number(record.at("tokens")),
              .top_k = number(record.value("top_k", json()))};
  probe.chosen = per_expert(record.at("chosen"));
  for (const json& layer : record.value("coactivation", json::array())) {
    probe.coactivation.push_back(per_expert(layer));
  }
  const json domains = record.value("domains", json::object());
  for (const auto& [name, domain] : domains.items()) {
    probe.domains.push_back({name, number(domain.at("tokens")), per_expert(domain.at("chosen"))});
  }
  return probe;
}

void add_alarm(const json& record, std::vector<Alarm>& alarms) {
  const std::string name = record.at("name").get<std::string>();
  std::optional<int64_t> layer;
  if (const auto at = record.find("layer"); at != record.end() && !at->is_null()) {
    layer = at->get<int64_t>();
  }
  const auto step = record.at("step").get<int64_t>();
  auto alarm = std::ranges::find_if(
      alarms, [&](const Alarm& known) { return known.name == name && known.layer == layer; });
  if (alarm == alarms.end()) {
    alarms.push_back({.name = name, .layer = layer, .first_step = step});
    alarm = alarms.end() - 1;
  }
  ++alarm->times;
  alarm->last_step = step;
  alarm->value = number(record.value("value", json()));
  alarm->threshold = number(record.value("threshold", json()));
  alarm->advice = record.value("advice", std::string());
}

/// routing.jsonl; kinds that this program does not know are passed over.
void add_routing(const json& record, LoadFrames& loads, RunRecords& records) {
  const std::string kind = record.at("kind").get<std::string>();
  if (kind == "load") {
    loads.add(record.at("step").get<int64_t>(), per_expert(record.at("load")));
  } else if (kind == "probe") {
    Probe probe = probe_of(record);
    if (!probe.coactivation.empty()) records.pairs = probe;
    records.probe = std::move(probe);
  } else if (kind == "experts") {
    records.learning = {.step = record.at("step").get<int64_t>(),
                        .gradient_share = per_expert(record.value("gradient_share", json::array())),
                        .update_ratio = per_expert(record.value("update_ratio", json::array()))};
  } else if (kind == "alarm") {
    add_alarm(record, records.alarms);
  }
}

/// The number that a whole text spells, or the largest, so that names follow numbers.
int64_t number_or_last(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_number = error == std::errc() && end == text.data() + text.size();
  return is_number ? value : std::numeric_limits<int64_t>::max();
}

}  // namespace

void LoadFrames::add(int64_t step, PerExpert load) {
  if (!frames_.empty() && !same_shape(frames_.back().load, load)) {
    begin_ = frames_.back().step + 1;
    frames_.clear();
    per_frame_ = 1;
    in_last_ = 0;
  }
  if (!frames_.empty() && in_last_ < per_frame_) {
    add_into(frames_.back().load, load);
    frames_.back().step = step;
    ++in_last_;
    return;
  }
  if (frames_.size() >= most_) {
    for (size_t pair = 0; 2 * pair < frames_.size(); ++pair) {
      LoadFrame frame = std::move(frames_[2 * pair]);
      if (2 * pair + 1 < frames_.size()) {
        add_into(frame.load, frames_[2 * pair + 1].load);
        frame.step = frames_[2 * pair + 1].step;
      }
      frames_[pair] = std::move(frame);
    }
    frames_.resize((frames_.size() + 1) / 2);
    per_frame_ *= 2;
  }
  const int64_t first = frames_.empty() ? begin_ : frames_.back().step + 1;
  frames_.push_back({first, step, std::move(load)});
  in_last_ = 1;
}

PerExpert LoadFrames::total() const {
  PerExpert sum;
  for (const LoadFrame& frame : frames_) {
    if (sum.empty()) {
      sum = frame.load;
    } else {
      add_into(sum, frame.load);
    }
  }
  return sum;
}

const Series* RunRecords::find(std::string_view name) const {
  const auto found = series.find(name);
  return found == series.end() || found->second.empty() ? nullptr : &found->second;
}

std::vector<std::pair<std::string, const Series*>> RunRecords::family(std::string_view name) const {
  const std::string prefix = std::string(name) + "/";
  std::vector<std::pair<std::string, const Series*>> members;
  for (auto at = series.lower_bound(prefix); at != series.end() && at->first.starts_with(prefix);
       ++at) {
    if (!at->second.empty()) members.emplace_back(at->first.substr(prefix.size()), &at->second);
  }
  std::ranges::stable_sort(members, {},
                           [](const auto& member) { return number_or_last(member.first); });
  return members;
}

RunRecords read_run_records(const RunFolder& run) {
  RunRecords records;
  if (std::filesystem::exists(run.metrics())) {
    read_json_lines(run.metrics(), [&](const json& record) { add_metrics(record, records); });
  }
  SLUICE_CHECK(
      ConfigError, !records.series.empty(),
      "{}: nothing to report: no record in its metrics.jsonl; name the folder of a run that "
      "has trained with log.sinks naming jsonl",
      run.path().string());
  LoadFrames loads;
  if (std::filesystem::exists(run.routing())) {
    read_json_lines(run.routing(),
                    [&](const json& record) { add_routing(record, loads, records); });
  }
  records.loads_are_samples = loads.empty();
  if (!loads.empty()) records.loads = std::move(loads);
  std::ranges::stable_sort(records.alarms, {}, &Alarm::first_step);
  return records;
}

}  // namespace sluice::report
