// Loss curves, learning rate and gradient norm.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "train/report/line_chart.h"
#include "train/report/run_sections.h"
#include "train/report/text.h"

namespace sluice::report {
namespace {

constexpr size_t kFullWidth = 450;  // buckets of a curve over the page
constexpr size_t kHalfWidth = 220;
constexpr double kHalf = 510.0;

/// A hundredth of the run, at least two records: half of the width of the weights.
double smoothing_length(const Series& series) {
  return std::max(2.0, static_cast<double>(series.size()) / 100.0);
}

Line simple_line(std::string name, std::string colour, const Series& series, size_t buckets) {
  return {.name = std::move(name), .colour = std::move(colour), .points = series.outline(buckets)};
}

std::string language_loss(const RunMaterial& run) {
  LineChart chart{.id = "loss",
                  .title = "Language-model loss",
                  .y_label = "nats per token",
                  .height = 400.0,
                  .can_be_logarithmic = true};
  if (const Series* train = run.records.find("train/loss")) {
    const double length = smoothing_length(*train);
    chart.lines.push_back({.name = "each record",
                           .colour = category_colour(0),
                           .points = train->outline(kFullWidth),
                           .look = Line::Look::faint,
                           .is_labelled = false});
    chart.lines.push_back({.name = "training",
                           .colour = category_colour(0),
                           .points = train->smoothed(length, kFullWidth),
                           .look = Line::Look::strong});
    chart.note = fmt::format(
        "Of the global batch: each record faintly, and smoothed over about {:.0f} records.",
        2.0 * length);
  }
  if (const Series* held_out = run.records.find("eval/loss")) {
    chart.lines.push_back({.name = "held out",
                           .colour = category_colour(1),
                           .points = held_out->outline(kFullWidth),
                           .look = Line::Look::dots});
    chart.note += " Dots: the held-out text.";
  }
  return line_chart(chart);
}

/// One line per domain of a family of evaluation metrics.
std::string domain_chart(const RunMaterial& run, std::string_view metric, std::string id,
                         std::string title, std::string unit) {
  const auto domains = run.records.family(metric);
  if (domains.size() < 2) return {};
  LineChart chart{.id = std::move(id),
                  .title = std::move(title),
                  .y_label = std::move(unit),
                  .width = kHalf,
                  .height = 320.0};
  for (size_t i = 0; i < domains.size(); ++i) {
    Line line = simple_line(domains[i].first, category_colour(i), *domains[i].second, kHalfWidth);
    line.look = Line::Look::dots;
    chart.lines.push_back(std::move(line));
  }
  return line_chart(chart);
}

std::string auxiliary_losses(const RunMaterial& run) {
  LineChart chart{.id = "auxiliary",
                  .title = "Auxiliary losses",
                  .note = "Added to the language-model loss, already weighted.",
                  .y_label = "weighted loss",
                  .width = kHalf,
                  .height = 280.0};
  size_t colour = 2;
  for (const auto& [metric, name] :
       {std::pair("train/balance_loss", "balance loss"), std::pair("train/z_loss", "router z-loss"),
        std::pair("train/depth_loss", "depth loss"),
        std::pair("train/multi_token_loss", "multi-token loss")}) {
    const Series* series = run.records.find(metric);
    const size_t mine = colour++;
    if (series == nullptr || (series->lowest().y == 0.0 && series->highest().y == 0.0)) continue;
    chart.lines.push_back(simple_line(name, category_colour(mine), *series, kHalfWidth));
  }
  return line_chart(chart);
}

std::string one_metric(const RunMaterial& run, std::string_view metric, LineChart chart) {
  const Series* series = run.records.find(metric);
  if (series == nullptr) return {};
  Line line = simple_line(chart.title, category_colour(0), *series, kHalfWidth);
  line.is_labelled = false;
  chart.lines.push_back(std::move(line));
  chart.width = kHalf;
  chart.height = 280.0;
  std::string figure = line_chart(chart);
  return figure;
}

std::string pair_of(const std::string& figures) {
  return figures.empty() ? figures : "<div class=\"pair\">" + figures + "</div>";
}

}  // namespace

Section loss_section(const RunMaterial& run) {
  Section section{.id = "losses", .title = "Loss"};
  section.body = language_loss(run);
  section.body += pair_of(
      domain_chart(run, "eval/loss", "domain-loss", "Held-out loss by domain", "nats per token") +
      domain_chart(run, "eval/bits_per_byte", "domain-bits", "Held-out bits per byte by domain",
                   "bits per byte"));
  if (section.body.empty()) section.body = missing("The records hold no loss.");
  if (run.records.find("eval/loss") == nullptr) {
    section.body += missing(
        "Nothing was evaluated: the recipe holds out no text, or the run ended before "
        "train.evaluate.every.");
  }
  return section;
}

Section optimisation_section(const RunMaterial& run) {
  Section section{.id = "optimisation", .title = "Optimisation"};
  std::string figures = one_metric(run, "train/lr",
                                   {.id = "lr",
                                    .title = "Learning rate",
                                    .note = "What the schedule gave at each record.",
                                    .starts_at_zero = true});
  figures += one_metric(run, "train/grad_norm",
                        {.id = "grad-norm",
                         .title = "Gradient norm",
                         .note = "Over all parameters, before clipping.",
                         .can_be_logarithmic = true,
                         .starts_at_zero = true});
  figures += auxiliary_losses(run);
  section.body = pair_of(figures);
  const Series* skipped = run.records.find("train/skipped_steps");
  if (skipped != nullptr && skipped->last() > 0.0) {
    section.body +=
        missing(fmt::format("{} updates were skipped because a loss or a gradient was not finite.",
                            readable(skipped->last())));
  }
  if (section.body.empty()) section.title.clear();
  return section;
}

}  // namespace sluice::report
