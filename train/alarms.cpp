#include "train/alarms.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "train/format.h"

namespace sluice {
namespace {

constexpr std::array kAlarms = {
    AlarmType{.name = "dead_experts",
              .metric = &metrics::load_dead_experts,
              .fires_below = false,
              .must_last = false,
              .threshold = 0.0,
              .doc = "experts of a layer without a token for log.dead_after steps",
              .advice = "raise the balancing coefficient or rate, or train with fewer experts"},
    AlarmType{.name = "max_violation",
              .metric = &metrics::load_max_violation,
              .fires_below = false,
              .must_last = true,
              .threshold = 2.0,
              .doc = "MaxVio of a layer",
              .advice = "raise the balancing coefficient or rate, or try balance: bip"},
    AlarmType{.name = "collapse",
              .metric = &metrics::load_spread,
              .fires_below = true,
              .must_last = true,
              .threshold = 0.1,
              .doc = "least load/spread of a layer",
              .advice = "nearly all tokens choose the same experts: balance, or lower the learning "
                        "rate"},
    AlarmType{.name = "logit_norm",
              .metric = &metrics::router_logit_norm,
              .fires_below = false,
              .must_last = false,
              .threshold = 100.0,
              .doc = "router/logit_norm of a layer",
              .advice = "add {type: router_z_loss} to balance, or lower the learning rate"},
    AlarmType{.name = "dropped",
              .metric = &metrics::load_dropped_fraction,
              .fires_below = false,
              .must_last = true,
              .threshold = 0.1,
              .doc = "share of a layer's assignments dropped for capacity",
              .advice = "raise model.experts.capacity_factor, or balance more"},
    AlarmType{.name = "fluctuation",
              .metric = &metrics::eval_fluctuation,
              .fires_below = false,
              .must_last = true,
              .threshold = 0.5,
              .doc = "eval/fluctuation of a layer",
              .advice = "tokens keep changing their experts: lower the learning rate or the bias "
                        "rate"},
    AlarmType{.name = "loss_deviation",
              .metric = &metrics::train_loss_deviation,
              .fires_below = false,
              .must_last = false,
              .threshold = 6.0,
              .doc = "standard deviations of the loss above its recent mean (OLMo-core's rule)",
              .advice = "a spike: if it stays, lower the learning rate or look at the data"},
};

/// The value of a metric that is furthest in the alarm's direction.
struct Worst {
  double value;
  std::optional<int64_t> layer;
};

std::optional<int64_t> layer_of(std::string_view name, std::string_view family) {
  if (!name.starts_with(family) || name.size() < family.size() + 2) return std::nullopt;
  if (name[family.size()] != '/') return std::nullopt;
  const std::string_view part = name.substr(family.size() + 1);
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), layer);
  const bool whole = error == std::errc() && end == part.data() + part.size();
  return whole ? std::optional(layer) : std::nullopt;
}

std::optional<Worst> worst_of(const AlarmType& type, const Record& record) {
  const auto worse = [&](double a, double b) { return type.fires_below ? a < b : a > b; };
  std::optional<Worst> worst;
  for (const auto& [name, value] : record.values) {
    const auto layer = layer_of(name, type.metric->name);
    if (layer && (!worst || worse(value, worst->value))) worst = {value, layer};
  }
  const double* whole = record.find(type.metric->name);
  if (!worst && whole != nullptr) worst = {*whole, std::nullopt};
  return worst;
}

std::string sentence_of(const AlarmType& type, const AlarmRecord& alarm, int64_t lasted) {
  return fmt::format(
      "alarm {}: step {}{}: {} is {:.4g}, {} than {:g}{}; {}", type.name, alarm.step,
      alarm.layer ? fmt::format(", expert layer {}", *alarm.layer) : "", type.metric->name,
      alarm.value, type.fires_below ? "less" : "more", alarm.threshold,
      lasted > 0 ? fmt::format(" for {}", counted(lasted, "step")) : "", type.advice);
}

}  // namespace

std::span<const AlarmType> alarm_types() { return kAlarms; }

AlarmsConfig::AlarmsConfig() {
  for (const AlarmType& type : kAlarms) thresholds.emplace_back(type.threshold);
}

void AlarmsConfig::fields(FieldVisitor& v) {
  for (size_t i = 0; i < kAlarms.size(); ++i) {
    v.optional_number({kAlarms[i].name, kAlarms[i].doc}, thresholds[i], {}, "off");
  }
  v.integer({"patience",
             "steps that max_violation, collapse, dropped and fluctuation must last to count"},
            patience, {.min = 0});
  v.integer({"quiet", "steps until an alarm that went off and on again is reported anew"}, quiet,
            {.min = 0});
}

AlarmState::AlarmState() : alarms(kAlarms.size()) {}

void AlarmState::visit_state(StateVisitor& visitor) {
  for (size_t i = 0; i < kAlarms.size(); ++i) {
    const StateScope scope(visitor, kAlarms[i].name);
    visitor.integer("since", alarms[i].since);
    visitor.integer("on", alarms[i].on);
    visitor.integer("said", alarms[i].said);
  }
}

std::vector<AlarmEvent> Alarms::judge(Record& record, AlarmState& state) const {
  std::vector<AlarmEvent> events;
  for (size_t i = 0; i < kAlarms.size(); ++i) {
    const AlarmType& type = kAlarms[i];
    if (!config_.thresholds[i]) continue;
    const auto worst = worst_of(type, record);
    if (!worst) continue;
    const double threshold = *config_.thresholds[i];
    AlarmState::One& one = state.alarms[i];
    // A NaN is past no threshold: the step that brought it is reported as skipped.
    const bool past = type.fires_below ? worst->value < threshold : worst->value > threshold;
    if (!past) one.since = -1;
    if (past && one.since < 0) one.since = record.step;
    const int64_t lasted = past ? record.step - one.since : 0;
    const bool on = past && (!type.must_last || lasted >= config_.patience);
    const bool goes_on = on && one.on == 0;
    one.on = on ? 1 : 0;
    record.add(fmt::format("{}/{}", metrics::alarm.name, type.name), on ? 1.0 : 0.0);
    if (!goes_on || (one.said >= 0 && record.step - one.said < config_.quiet)) continue;
    one.said = record.step;
    AlarmRecord alarm{.step = record.step,
                      .name = std::string(type.name),
                      .layer = worst->layer,
                      .value = worst->value,
                      .threshold = threshold,
                      .advice = std::string(type.advice)};
    std::string sentence = sentence_of(type, alarm, type.must_last ? lasted : 0);
    events.push_back({std::move(alarm), std::move(sentence)});
  }
  return events;
}

}  // namespace sluice
