// Speed, memory, alarms.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "train/format.h"
#include "train/report/bar_chart.h"
#include "train/report/line_chart.h"
#include "train/report/run_sections.h"
#include "train/report/text.h"

namespace sluice::report {
namespace {

constexpr size_t kBuckets = 220;
constexpr double kHalf = 510.0;

std::string spaced(std::string name) {
  std::ranges::replace(name, '_', ' ');
  return name;
}

std::string throughput_chart(const RunMaterial& run) {
  const Series* speed = run.records.find("speed/tokens_per_second");
  if (speed == nullptr) return {};
  LineChart chart{.id = "throughput",
                  .title = "Throughput",
                  .note = "Time in steps only; evaluation and checkpoints are not counted.",
                  .y_label = "tokens per second",
                  .width = kHalf,
                  .height = 300.0,
                  .starts_at_zero = true};
  chart.lines.push_back({.name = "tokens per second",
                         .colour = category_colour(0),
                         .points = speed->outline(kBuckets),
                         .is_labelled = false});
  return line_chart(chart);
}

std::string phase_bars(const RunMaterial& run) {
  BarChart chart{.id = "phases",
                 .title = "Where the time of a step goes",
                 .note = "Mean over the run, as a share of the step.",
                 .width = kHalf};
  auto phases = run.records.family("speed/phase_fraction");
  std::ranges::stable_sort(phases, std::ranges::greater(),
                           [](const auto& phase) { return phase.second->mean(); });
  double known = 0.0;
  for (const auto& [name, share] : phases) {
    known += share->mean();
    if (share->mean() < 5e-4) continue;
    chart.bars.push_back({.name = spaced(name),
                          .value = share->mean(),
                          .text = fmt::format("{:.1f} %", 100.0 * share->mean()),
                          .colour = category_colour(name == "routing" ? 1 : 0)});
  }
  if (!phases.empty() && known < 0.995) {
    chart.bars.push_back({.name = "outside kernels",
                          .value = 1.0 - known,
                          .text = fmt::format("{:.1f} %", 100.0 * (1.0 - known)),
                          .colour = category_colour(7)});
  }
  return bar_chart(chart);
}

}  // namespace

Section speed_section(const RunMaterial& run) {
  Section section{.id = "speed", .title = "Speed"};
  const std::string figures = throughput_chart(run) + phase_bars(run);
  section.body = figures.empty() ? missing("The records hold no times.")
                                 : "<div class=\"pair\">" + figures + "</div>";
  return section;
}

Section memory_section(const RunMaterial& run) {
  Section section{.id = "memory", .title = "Memory"};
  const Series* measured = run.records.find("memory/peak_bytes");
  const int64_t predicted = run.overview ? run.overview->predicted_bytes() : 0;
  if (measured == nullptr && predicted == 0) {
    section.title.clear();
    return section;
  }
  section.lead = "Of tensors, at the peak of a step.";
  BarChart totals{.id = "memory-totals",
                  .title = "Predicted and measured",
                  .note = "The plan assumes full sequences and evenly loaded experts.",
                  .width = kHalf};
  if (predicted > 0) {
    totals.bars.push_back({.name = "predicted",
                           .value = static_cast<double>(predicted),
                           .text = in_bytes(static_cast<double>(predicted)),
                           .colour = category_colour(7)});
  }
  if (measured != nullptr) {
    const double most = measured->highest().y;
    totals.bars.push_back(
        {.name = "measured", .value = most, .text = in_bytes(most), .colour = category_colour(0)});
  }
  BarChart parts{.id = "memory-parts", .title = "What the plan expects it to hold", .width = kHalf};
  if (run.overview) {
    for (const SavedOverview::Memory& memory : run.overview->predicted_memory) {
      parts.bars.push_back({.name = memory.kind,
                            .value = static_cast<double>(memory.bytes),
                            .text = in_bytes(static_cast<double>(memory.bytes)),
                            .colour = category_colour(7)});
    }
  }
  section.body = "<div class=\"pair\">" + bar_chart(totals) + bar_chart(parts) + "</div>";
  return section;
}

Section alarm_section(const RunMaterial& run) {
  Section section{.id = "alarms", .title = "Alarms"};
  if (!has_experts(run)) section.title.clear();
  if (run.records.alarms.empty()) {
    section.body = missing("None was raised.");
    return section;
  }
  std::string rows;
  for (const Alarm& alarm : run.records.alarms) {
    const std::string steps =
        alarm.first_step == alarm.last_step
            ? with_commas(alarm.first_step)
            : fmt::format("{} to {}", with_commas(alarm.first_step), with_commas(alarm.last_step));
    rows += fmt::format(
        "<tr><th scope=\"row\" class=\"text\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td>"
        "<td>{}</td><td class=\"text\">{}</td></tr>",
        escaped(spaced(alarm.name)), alarm.layer ? std::to_string(*alarm.layer) : "all",
        with_commas(alarm.times), steps, readable(alarm.value), readable(alarm.threshold),
        escaped(alarm.advice));
  }
  section.body =
      "<div class=\"scroll\"><table class=\"list\"><thead><tr><th "
      "class=\"text\">alarm</th><th>layer"
      "</th><th>times</th><th>steps</th><th>last value</th><th>threshold</th>"
      "<th class=\"text\">what to do</th></tr></thead><tbody>" +
      rows + "</tbody></table></div>";
  return section;
}

}  // namespace sluice::report
