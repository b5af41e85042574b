// What the experts did: balance over time, loads, specialisation, co-activation, learning.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string_view>

#include "train/format.h"
#include "train/report/heat_map.h"
#include "train/report/line_chart.h"
#include "train/report/run_sections.h"
#include "train/report/text.h"

namespace sluice::report {
namespace {

constexpr size_t kHalfWidth = 200;  // buckets of a curve over half of the page
constexpr double kHalf = 510.0;
constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

using Matrix = std::vector<std::vector<double>>;

std::vector<std::string> numbered(size_t count) {
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

/// Each layer's load over the layer's mean; no cells for a layer without assignments.
Matrix over_mean(const PerExpert& load) {
  Matrix ratios = load;
  for (auto& layer : ratios) {
    const double mean = sum_of(layer) / static_cast<double>(std::max<size_t>(layer.size(), 1));
    for (double& value : layer) value = mean > 0.0 ? value / mean : kNothing;
  }
  return ratios;
}

/// A chart with a line per layer, coloured by depth. Names at the ends while there is room.
std::string layer_chart(const RunMaterial& run, std::string_view metric, LineChart chart) {
  constexpr size_t kMostNames = 8;
  const auto layers = run.records.family(metric);
  if (layers.empty()) return {};
  const size_t buckets = layers.size() <= kMostNames ? kHalfWidth : kHalfWidth / 3;
  for (size_t i = 0; i < layers.size(); ++i) {
    chart.lines.push_back(
        {.name = "layer " + layers[i].first,
         .colour = ordered_colour(i, layers.size()),
         .points = layers[i].second->outline(buckets),
         .look = metric.starts_with("eval/") ? Line::Look::dots : Line::Look::plain,
         .is_labelled = layers.size() <= kMostNames});
  }
  chart.width = kHalf;
  chart.height = 300.0;
  chart.starts_at_zero = true;
  return line_chart(chart);
}

bool is_ever_positive(const RunMaterial& run, std::string_view metric) {
  const Series* series = run.records.find(metric);
  return series != nullptr && series->highest().y > 0.0;
}

std::string span_of(const LoadFrame& frame) {
  return frame.first_step >= frame.step
             ? fmt::format("step {}", with_commas(frame.step))
             : fmt::format("steps {} to {}", with_commas(frame.first_step),
                           with_commas(frame.step));
}

/// The page grows with layers x experts x frames: fewer frames of larger models.
std::vector<LoadFrame> frames_to_show(const LoadFrames& loads) {
  constexpr size_t kMostCells = 80'000;
  size_t cells = 1;
  for (const auto& layer : loads.frames().back().load) cells += layer.size();
  LoadFrames fewer(std::clamp<size_t>(kMostCells / cells, 8, 100),
                   loads.frames().front().first_step);
  for (const LoadFrame& frame : loads.frames()) fewer.add(frame.step, frame.load);
  return fewer.frames();
}

/// The frames in which a round number of steps is reached.
std::vector<size_t> round_steps(const std::vector<LoadFrame>& frames) {
  std::vector<size_t> found;
  for (const Tick& tick : linear_axis(0.0, static_cast<double>(frames.back().step), 5).ticks) {
    const auto at = std::ranges::find_if(frames, [&](const LoadFrame& frame) {
      return tick.value > 0.0 && static_cast<double>(frame.step) >= tick.value;
    });
    if (at != frames.end()) found.push_back(static_cast<size_t>(at - frames.begin()));
  }
  return found;
}

/// Experts down, time across, for one layer.
std::string layer_over_time(const std::vector<LoadFrame>& frames, size_t layer,
                            const ColourScale& scale) {
  const size_t experts = frames.back().load[layer].size();
  HeatMap map{.id = fmt::format("time-{}", layer),
              .title = fmt::format("Layer {}", layer),
              .row_name = "expert",
              .column_name = "step",
              .value_name = "load over its mean",
              .rows = numbered(experts),
              .scale = scale,
              .width = kHalf,
              .greatest_cell = experts > 32   ? 4.0
                               : experts > 16 ? 8.0
                                              : 14.0,
              .has_legend = false};
  map.values.assign(experts, {});
  for (const LoadFrame& frame : frames) {
    const Matrix ratios = over_mean({frame.load[layer]});
    for (size_t expert = 0; expert < experts; ++expert) {
      map.values[expert].push_back(ratios[0][expert]);
    }
    map.columns.push_back(with_commas(frame.step));
  }
  map.labelled_columns = round_steps(frames);
  return heat_map(map);
}

/// What has to stand over a figure of a held-out probe.
std::string probe_note(const Probe& probe) {
  return fmt::format("{} held-out tokens at step {}", with_commas(std::llround(probe.tokens)),
                     with_commas(probe.step));
}

constexpr std::string_view kNoProbe =
    "No evaluation recorded which experts its tokens chose (routing.jsonl holds no probe).";

/// Share of each domain's choices that went to each expert, over the even share.
Matrix specialisation_of(const Probe& probe, size_t layer) {
  Matrix ratios;
  for (const Probe::Domain& domain : probe.domains) {
    if (layer < domain.chosen.size()) {
      ratios.push_back(over_mean({domain.chosen[layer]})[0]);
    } else {
      ratios.emplace_back();
    }
  }
  return ratios;
}

/// P(j chosen | i chosen), nothing on the diagonal.
Matrix conditional_shares(const Matrix& together, const std::vector<double>& chosen) {
  Matrix shares = together;
  for (size_t i = 0; i < shares.size(); ++i) {
    for (size_t j = 0; j < shares[i].size(); ++j) {
      const bool is_known = i != j && i < chosen.size() && chosen[i] > 0.0;
      shares[i][j] = is_known ? shares[i][j] / chosen[i] : kNothing;
    }
  }
  return shares;
}

Matrix joined(const std::vector<Matrix>& matrices) {
  Matrix all;
  for (const Matrix& matrix : matrices) all.insert(all.end(), matrix.begin(), matrix.end());
  return all;
}

std::string learning_map(std::string id, std::string title, std::string note, std::string zero,
                         const PerExpert& values) {
  HeatMap map{.id = std::move(id),
              .title = std::move(title),
              .note = std::move(note),
              .row_name = "layer",
              .column_name = "expert",
              .value_name = "over its mean",
              .rows = numbered(values.size()),
              .values = over_mean(values),
              .width = kHalf};
  map.scale = ColourScale::ratios(map.values);
  map.scale.zero = std::move(zero);
  return heat_map(map);
}

}  // namespace

bool has_experts(const RunMaterial& run) {
  return !run.records.loads.empty() || run.records.find("load/max_violation") != nullptr;
}

Section balance_section(const RunMaterial& run) {
  Section section{.id = "balance",
                  .title = "Balance",
                  .lead =
                      "MaxVio is the load of the busiest expert over the mean load, minus 1: 0 "
                      "when all are equal."};
  if (!has_experts(run)) {
    section.body = missing("The model has no layer with routed experts.");
    section.lead.clear();
    return section;
  }
  std::string figures = layer_chart(run, "load/max_violation",
                                    {.id = "max-violation",
                                     .title = "MaxVio per layer",
                                     .note = "Of the global batch of each recorded step.",
                                     .y_label = "MaxVio",
                                     .can_be_logarithmic = true});
  figures += layer_chart(run, "load/average_max_violation",
                         {.id = "average-max-violation",
                          .title = "AvgMaxVio per layer",
                          .note = "Mean of MaxVio over all steps so far.",
                          .y_label = "AvgMaxVio"});
  if (is_ever_positive(run, "load/dead_experts")) {
    figures += layer_chart(run, "load/dead_experts",
                           {.id = "dead-experts",
                            .title = "Dead experts per layer",
                            .note = "Without a token for many steps (log.dead_after).",
                            .y_label = "experts"});
  }
  if (is_ever_positive(run, "load/dropped_fraction")) {
    figures += layer_chart(run, "load/dropped_fraction",
                           {.id = "dropped",
                            .title = "Dropped assignments per layer",
                            .note = "Share that found its expert full.",
                            .y_label = "share"});
  }
  section.body = "<div class=\"pair\">" + figures + "</div>";
  std::string quiet;
  if (!is_ever_positive(run, "load/dead_experts")) quiet += "No expert was dead at any record. ";
  if (!is_ever_positive(run, "load/dropped_fraction")) quiet += "No assignment was dropped.";
  if (!quiet.empty()) section.body += missing(quiet);
  return section;
}

Section router_section(const RunMaterial& run) {
  struct Family {
    std::string_view metric;
    std::string id, title, note, unit;
  };
  const std::vector<Family> families = {
      {"load/effective_experts", "effective-experts", "Effective experts",
       "Exp of the entropy of the load: how many experts an even load of this spread would have.",
       "experts"},
      {"router/entropy", "router-entropy", "Entropy of a token's probabilities",
       "High where routers cannot decide, near zero where they always do.", "nats"},
      {"router/logit_norm", "logit-norm", "Norm of the logits",
       "Of a token; growth without end makes training unstable.", "norm"},
      {"router/top_margin", "top-margin", "Margin of the first choice",
       "Largest probability of a token minus the second largest.", "probability"},
      {"eval/fluctuation", "fluctuation", "Fluctuation",
       "Share of their experts that held-out tokens replaced since the evaluation before.",
       "share"},
      {"eval/domain_information", "domain-information", "Information about the domain",
       "Mutual information of a held-out token's domain and its experts.", "nats"},
      {"balance/bias_range", "bias-range", "Range of the biases",
       "Largest minus smallest bias of a layer's experts.", "bias"},
  };
  Section section{.id = "routers", .title = "Routers"};
  for (const Family& family : families) {
    section.body += layer_chart(
        run, family.metric,
        {.id = family.id, .title = family.title, .note = family.note, .y_label = family.unit});
  }
  if (section.body.empty()) {
    section.title.clear();
  } else {
    section.body = "<div class=\"pair\">" + section.body + "</div>";
  }
  return section;
}

Section load_section(const RunMaterial& run) {
  Section section{.id = "load", .title = "Expert load"};
  if (!has_experts(run)) {
    section.title.clear();
    return section;
  }
  if (run.records.loads.empty()) {
    section.body = missing("The records hold no loads of single experts.");
    return section;
  }
  section.lead =
      run.records.loads_are_samples
          ? "Tokens that each expert received, over its layer's mean, at the recorded steps."
          : "Tokens that each expert received, over its layer's mean, counting every step.";
  const std::vector<LoadFrame> frames = frames_to_show(run.records.loads);
  HeatMap map{.id = "load-map",
              .title = "Load by layer and expert",
              .row_name = "layer",
              .column_name = "expert",
              .value_name = "load over its mean",
              .values = over_mean(run.records.loads.total()),
              .label = "whole run"};
  map.note = "The whole run; the slider goes through it.";
  map.rows = numbered(map.values.size());
  std::vector<Matrix> all{map.values};
  for (const LoadFrame& frame : frames) {
    map.frames.push_back({span_of(frame), over_mean(frame.load)});
    all.push_back(map.frames.back().values);
  }
  map.scale = ColourScale::ratios(joined(all));
  section.body = heat_map(map);
  if (frames.size() < 2) return section;
  section.body +=
      "<figure class=\"chart head\"><figcaption><h3>Load over time</h3><p>One row per expert, time "
      "from left to right, in the same colours.</p></figcaption></figure><div class=\"pair\">";
  for (size_t layer = 0; layer < map.values.size(); ++layer) {
    section.body += layer_over_time(frames, layer, map.scale);
  }
  section.body += "</div>";
  return section;
}

Section specialisation_section(const RunMaterial& run) {
  Section section{.id = "specialisation", .title = "Specialisation"};
  if (!has_experts(run)) section.title.clear();
  const auto& probe = run.records.probe;
  if (!probe || probe->domains.empty()) {
    section.body = missing(probe ? "The held-out text names no domains." : kNoProbe);
    return section;
  }
  section.lead = fmt::format(
      "Where the text of each domain went: the expert's share of the domain's choices "
      "over the even share ({}).",
      probe_note(*probe));
  std::vector<Matrix> layers;
  for (size_t layer = 0; layer < probe->chosen.size(); ++layer) {
    layers.push_back(specialisation_of(*probe, layer));
  }
  const ColourScale scale = ColourScale::ratios(joined(layers));
  section.body = heat_legend(scale, "share over the even share") + "<div class=\"pair\">";
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    HeatMap map{.id = fmt::format("domains-{}", layer),
                .title = fmt::format("Layer {}", layer),
                .row_name = "domain",
                .column_name = "expert",
                .value_name = "share over the even share",
                .values = layers[layer],
                .scale = scale,
                .width = kHalf,
                .has_legend = false};
    for (const Probe::Domain& domain : probe->domains) map.rows.push_back(domain.name);
    section.body += heat_map(map);
  }
  section.body += "</div>";
  return section;
}

Section coactivation_section(const RunMaterial& run) {
  constexpr size_t kMostCells = 150'000;
  Section section{.id = "coactivation", .title = "Co-activation"};
  if (!has_experts(run) || !run.records.probe) {
    section.title.clear();
    return section;
  }
  if (!run.records.pairs) {
    section.body = missing("No evaluation counted which experts were chosen together.");
    return section;
  }
  const Probe& probe = *run.records.pairs;
  section.lead = fmt::format(
      "Of the tokens that chose the expert of the row, the share that also chose the expert of the "
      "column ({}).",
      probe_note(probe));
  std::vector<Matrix> layers;
  size_t cells = 0;
  for (size_t layer = 0; layer < probe.coactivation.size(); ++layer) {
    const Matrix& together = probe.coactivation[layer];
    cells += together.size() * together.size();
    if (!layers.empty() && cells > kMostCells) break;
    layers.push_back(conditional_shares(
        together, layer < probe.chosen.size() ? probe.chosen[layer] : std::vector<double>()));
  }
  const ColourScale scale = ColourScale::shares(joined(layers));
  section.body = heat_legend(scale, "share of the row's tokens") + "<div class=\"group\">";
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const size_t experts = layers[layer].size();
    HeatMap map{.id = fmt::format("together-{}", layer),
                .title = fmt::format("Layer {}", layer),
                .row_name = "expert",
                .column_name = "with expert",
                .value_name = "share",
                .rows = numbered(experts),
                .values = layers[layer],
                .scale = scale,
                .width = experts > 24   ? kHalf
                         : experts > 10 ? 320.0
                                        : 232.0,
                .greatest_cell = 28.0,
                .is_square = true,
                .has_legend = false};
    section.body += heat_map(map);
  }
  section.body += "</div>";
  if (layers.size() < probe.coactivation.size()) {
    section.body +=
        missing(fmt::format("Only the first {} of {} layers are drawn; all are in routing.jsonl.",
                            layers.size(), probe.coactivation.size()));
  }
  return section;
}

Section learning_section(const RunMaterial& run) {
  Section section{.id = "learning", .title = "Learning"};
  const auto& learning = run.records.learning;
  if (!learning || (learning->gradient_share.empty() && learning->update_ratio.empty())) {
    section.title.clear();
    return section;
  }
  section.lead =
      fmt::format("How much each expert learned at step {}.", with_commas(learning->step));
  section.body = "<div class=\"pair\">" +
                 learning_map("gradient-share", "Gradient",
                              "Norm of the expert's gradient over the mean of its layer's experts.",
                              "none", learning->gradient_share) +
                 learning_map("update-ratio", "Update over weight",
                              "Norm of the step over norm of the weights, over the mean of the "
                              "layer's experts.",
                              "none", learning->update_ratio) +
                 "</div>";
  return section;
}

}  // namespace sluice::report
