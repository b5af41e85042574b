#include "train/inspect_text.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "train/format.h"

namespace sluice {
namespace {

using nlohmann::ordered_json;

/// Appends "label      text", one aligned line.
template <class... Args>
void line(std::string& out, std::string_view label, fmt::format_string<Args...> text,
          Args&&... args) {
  fmt::format_to(std::back_inserter(out), "{:<12}{}\n", label,
                 fmt::format(text, std::forward<Args>(args)...));
}

std::string shape(const std::vector<int64_t>& dims) {
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

std::string size_of_file(int64_t bytes) { return in_bytes(static_cast<double>(bytes)); }

const CheckpointFile* best_of(const std::vector<CheckpointFile>& files) {
  const CheckpointFile* best = nullptr;
  for (const CheckpointFile& file : files) {
    if (file.eval_loss && (best == nullptr || *file.eval_loss < *best->eval_loss)) best = &file;
  }
  return best;
}

void add_run(std::string& out, const RunInspection& run) {
  const auto damaged = std::ranges::count_if(
      run.files, [](const CheckpointFile& file) { return !file.problem.empty(); });
  line(out, "run", "{}: {}{}", run.folder.string(), counted(std::ssize(run.files), "checkpoint"),
       damaged == 0 ? "" : fmt::format(", {} of them damaged", damaged));
  const CheckpointFile* best = best_of(run.files);
  for (const CheckpointFile& file : run.files) {
    if (!file.problem.empty()) {
      line(out, "  damaged", "{}", file.problem);
      continue;
    }
    line(out, "  whole", "{}  {}{}{}", file.path.filename().string(), size_of_file(file.bytes),
         file.eval_loss ? fmt::format(", held-out loss {:.4f}", *file.eval_loss) : "",
         &file == best ? ", the best" : "");
  }
}

void add_progress(std::string& out, const CheckpointInspection& found) {
  line(out, "step", "{}{}, {} tokens, {} of training{}", with_commas(found.meta.step),
       found.total_steps ? " of " + with_commas(*found.total_steps) : "",
       with_commas(found.meta.tokens), in_time(found.seconds),
       found.skipped == 0 ? "" : fmt::format(", {} skipped", counted(found.skipped, "update")));
  const std::string here =
      found.meta.eval_loss ? fmt::format("loss {:.4f} nats per token here", *found.meta.eval_loss)
                           : "not evaluated here";
  line(out, "held out", "{}{}", here,
       found.best_eval_loss ? fmt::format("; best {:.4f} after step {}", *found.best_eval_loss,
                                          with_commas(found.best_eval_step))
                            : "");
}

void add_model(std::string& out, const CheckpointInspection& found) {
  line(out, "model", "{}, hidden size {}, vocabulary {} ({})", found.pattern, found.hidden_size,
       with_commas(found.vocab_size), found.meta.tokenizer_kind);
  const ParameterCount& count = found.parameters;
  line(out, "parameters", "{} in all, {} active per token", with_commas(count.total),
       with_commas(count.active));
  line(out, "", "{} in routed experts, {} in embeddings{}", with_commas(count.experts),
       with_commas(count.embedding),
       count.trainable == count.total
           ? ""
           : fmt::format(", {} frozen", with_commas(count.total - count.trainable)));
}

void add_balance(std::string& out, const CheckpointInspection& found) {
  if (found.experts.empty()) return;
  line(out, "balance", "{}", fmt::join(found.balance, " + "));
  for (const BalanceState& state : found.balance_state) {
    line(out, "", "{} {} from {:.4g} to {:.4g}, {}", state.name, shape(state.dims), state.least,
         state.greatest, counted(state.layers, "layer"));
  }
  double average = 0.0;
  double largest = 0.0;
  double dead = 0.0;
  for (const LoadHistory& layer : found.loads) {
    average += layer.avg_max_vio / static_cast<double>(found.loads.size());
    largest = std::max(largest, layer.sup_max_vio);
    dead += layer.dead_experts;
  }
  line(out, "loads",
       "maxvio {:.3f} on average over steps and layers, {:.3f} at most; {:g} of {} "
       "experts dead",
       average, largest, dead,
       std::accumulate(found.experts.begin(), found.experts.end(), int64_t{0}));
}

void add_health(std::string& out, const CheckpointInspection& found) {
  if (!found.alarms) return;
  line(out, "health", "{}",
       found.alarms->empty() ? "no alarm is on"
                             : fmt::format("alarms on: {}", fmt::join(*found.alarms, ", ")));
}

/// The last few alarms that the run reported.
void add_alarms(std::string& out, const std::vector<ReportedAlarm>& alarms) {
  constexpr size_t kShown = 3;
  if (alarms.empty()) return;
  const size_t first = alarms.size() - std::min(alarms.size(), kShown);
  line(out, "alarms", "{} reported{}", alarms.size(), first == 0 ? ":" : ", the last:");
  for (size_t i = first; i < alarms.size(); ++i) {
    const ReportedAlarm& alarm = alarms[i];
    line(out, "", "step {}: {}{}; {}", with_commas(alarm.step), alarm.name,
         alarm.layer ? fmt::format(" in expert layer {}", *alarm.layer) : "", alarm.advice);
  }
}

void add_last_step(std::string& out, const LastStep& last) {
  line(out, "last loads", "of step {}, as recorded:", with_commas(last.step));
  for (size_t layer = 0; layer < last.counts.size(); ++layer) {
    const LoadStatistics load = load_statistics({.counts = last.counts[layer]});
    line(out, "", "layer {}: maxvio {:.3f}, largest share {:.3f}, {:.1f} effective experts of {}",
         layer, load.max_vio, load.largest_share, load.effective_experts,
         last.counts[layer].size());
  }
}

void add_parameters(std::string& out, const std::vector<ParameterInfo>& table) {
  size_t width = 0;
  for (const ParameterInfo& info : table) width = std::max(width, info.name.size());
  out += '\n';
  for (const ParameterInfo& info : table) {
    fmt::format_to(std::back_inserter(out), "{:<{}}  {:>14}  {}{}\n", info.name, width,
                   with_commas(info.size), shape(info.dims), info.trainable ? "" : "  frozen");
  }
}

ordered_json json_of(const RunInspection& run) {
  ordered_json files = ordered_json::array();
  for (const CheckpointFile& file : run.files) {
    ordered_json entry = {{"path", file.path.string()},
                          {"step", file.step},
                          {"bytes", file.bytes},
                          {"whole", file.problem.empty()}};
    if (file.eval_loss) entry["eval_loss"] = *file.eval_loss;
    if (!file.problem.empty()) entry["problem"] = file.problem;
    files.push_back(std::move(entry));
  }
  ordered_json result = {{"folder", run.folder.string()}, {"checkpoints", std::move(files)}};
  if (run.last_step) {
    result["last_step"] = {{"step", run.last_step->step}, {"loads", run.last_step->counts}};
  }
  result["alarms"] = ordered_json::array();
  for (const ReportedAlarm& alarm : run.alarms) {
    result["alarms"].push_back({{"step", alarm.step},
                                {"name", alarm.name},
                                {"layer", alarm.layer ? ordered_json(*alarm.layer) : nullptr},
                                {"advice", alarm.advice}});
  }
  return result;
}

ordered_json json_of(const CheckpointInspection& found) {
  ordered_json result = {{"path", found.path.string()}, {"bytes", found.bytes},
                         {"step", found.meta.step},     {"tokens", found.meta.tokens},
                         {"seconds", found.seconds},    {"skipped_updates", found.skipped}};
  if (found.total_steps) result["total_steps"] = *found.total_steps;
  if (found.meta.eval_loss) result["eval_loss"] = *found.meta.eval_loss;
  if (found.best_eval_loss) {
    result["best_eval_loss"] = *found.best_eval_loss;
    result["best_eval_step"] = found.best_eval_step;
  }
  result["build"] = found.meta.build;
  result["model"] = {{"pattern", found.pattern},
                     {"hidden_size", found.hidden_size},
                     {"vocab_size", found.vocab_size},
                     {"tokenizer", found.meta.tokenizer_kind},
                     {"experts", found.experts}};
  result["parameters"] = {{"total", found.parameters.total},
                          {"active", found.parameters.active},
                          {"experts", found.parameters.experts},
                          {"embedding", found.parameters.embedding},
                          {"trainable", found.parameters.trainable}};
  result["parameter_table"] = ordered_json::array();
  for (const ParameterInfo& info : found.table) {
    result["parameter_table"].push_back(
        {{"name", info.name}, {"shape", info.dims}, {"trainable", info.trainable}});
  }
  result["balance"] = {{"methods", found.balance}, {"state", ordered_json::array()}};
  for (const BalanceState& state : found.balance_state) {
    result["balance"]["state"].push_back({{"name", state.name},
                                          {"layers", state.layers},
                                          {"shape", state.dims},
                                          {"least", state.least},
                                          {"greatest", state.greatest}});
  }
  result["loads"] = ordered_json::array();
  for (const LoadHistory& layer : found.loads) {
    result["loads"].push_back({{"average_max_violation", layer.avg_max_vio},
                               {"supreme_max_violation", layer.sup_max_vio},
                               {"dead_experts", layer.dead_experts}});
  }
  if (found.alarms) result["alarms_on"] = *found.alarms;
  return result;
}

}  // namespace

std::string inspection_text(const Inspection& found, const InspectionTextOptions& options) {
  std::string out;
  if (found.run) add_run(out, *found.run);
  if (found.run && found.checkpoint) out += '\n';
  if (found.checkpoint) {
    const CheckpointInspection& checkpoint = *found.checkpoint;
    line(out, "checkpoint", "{}, {}", checkpoint.path.string(), size_of_file(checkpoint.bytes));
    add_progress(out, checkpoint);
    add_model(out, checkpoint);
    add_balance(out, checkpoint);
    add_health(out, checkpoint);
  }
  if (found.run && found.run->last_step) add_last_step(out, *found.run->last_step);
  if (found.run) add_alarms(out, found.run->alarms);
  if (found.checkpoint) {
    line(out, "written by", "{}", found.checkpoint->meta.build);
    if (options.parameters) add_parameters(out, found.checkpoint->table);
  }
  return out;
}

ordered_json inspection_json(const Inspection& found) {
  ordered_json result = ordered_json::object();
  if (found.run) result["run"] = json_of(*found.run);
  if (found.checkpoint) result["checkpoint"] = json_of(*found.checkpoint);
  return result;
}

}  // namespace sluice
