#include "train/report/comparison_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "autograd/support/error.h"
#include "train/format.h"
#include "train/report/bar_chart.h"
#include "train/report/line_chart.h"
#include "train/report/page.h"
#include "train/report/recipe_text.h"
#include "train/report/text.h"

namespace sluice::report {
namespace {

namespace fs = std::filesystem;
constexpr double kFull = 1040.0;  // width of a figure
constexpr double kHalf = 510.0;
constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

/// The rows of a model and the finished runs of each.
struct ModelRows {
  std::string name;
  size_t number = 0;  // of the model
  double equal_seconds = kNothing;
  struct Row {
    const TableRow* row = nullptr;
    std::string colour;
    std::vector<const RunResult*> runs;
  };
  std::vector<Row> rows;
};

ModelRows rows_of(const ComparisonTable& table, size_t model) {
  ModelRows result{
      .name = table.models[model], .number = model, .equal_seconds = table.equal_seconds[model]};
  size_t number = 0;
  for (const TableRow& row : table.rows) {
    if (row.model != result.name) continue;
    constexpr size_t kGrey = 7;  // for the twin alone
    size_t colour = number < kGrey ? number : number + 1;
    if (row.variation == kDenseTwin) {
      colour = kGrey;
    } else {
      ++number;
    }
    ModelRows::Row entry{.row = &row, .colour = category_colour(colour)};
    for (const ComparisonTable::Run& run : table.runs) {
      const RunResult& found = *run.result;
      const bool is_mine = found.model == row.model && found.variation == row.variation;
      if (is_mine && found.status == RunStatus::done) entry.runs.push_back(&found);
    }
    result.rows.push_back(std::move(entry));
  }
  return result;
}

// --- curves ---

/// Mean and sample standard deviation.
struct Spread {
  double mean = kNothing;
  double deviation = 0.0;
};

Spread spread_of(const std::vector<double>& values) {
  if (values.empty()) return {};
  const auto count = static_cast<double>(values.size());
  double mean = 0.0;
  for (const double value : values) mean += value / count;
  if (values.size() < 2) return {mean, 0.0};
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (count - 1.0))};
}

/// What the seeds of a variation have at one step.
struct AtStep {
  std::vector<double> x;
  std::vector<double> y;
};

enum class WhichCurve : uint8_t { eval, train };

std::map<double, AtStep> by_step(const std::vector<const RunResult*>& runs, WhichCurve which,
                                 std::string_view x, std::string_view y) {
  std::map<double, AtStep> steps;
  for (const RunResult* run : runs) {
    const Curve& curve = which == WhichCurve::eval ? run->eval_curve : run->train_curve;
    const auto& at = curve.column("step");
    const auto& xs = curve.column(x);
    const auto& ys = curve.column(y);
    for (size_t i = 0; i < std::min({at.size(), xs.size(), ys.size()}); ++i) {
      if (!std::isfinite(xs[i]) || !std::isfinite(ys[i])) continue;
      steps[at[i]].x.push_back(xs[i]);
      steps[at[i]].y.push_back(ys[i]);
    }
  }
  return steps;
}

struct CurveChoice {
  WhichCurve which = WhichCurve::eval;
  std::string_view x;
  std::string_view y;
  bool is_difference = false;  // to the mean of the first variation
};

/// Adds a line per variation, and a band of one standard deviation over its seeds. Steps that not all
/// seeds have are left out, so that a mean never changes its seeds.
std::string curves(const ModelRows& model, const CurveChoice& choice, LineChart chart) {
  std::map<double, double> base;
  for (const ModelRows::Row& row : model.rows) {
    Line line{.name = row.row->variation, .colour = row.colour};
    Band band{.colour = row.colour};
    if (choice.which == WhichCurve::eval) line.look = Line::Look::dots;
    const bool is_first = base.empty();
    for (const auto& [step, values] : by_step(row.runs, choice.which, choice.x, choice.y)) {
      if (values.y.size() < row.runs.size()) continue;
      const double at = spread_of(values.x).mean;
      const Spread spread = spread_of(values.y);
      if (is_first) base[step] = spread.mean;
      if (choice.is_difference && !base.contains(step)) continue;
      const double mean = spread.mean - (choice.is_difference ? base[step] : 0.0);
      line.points.push_back({at, mean});
      band.low.push_back({at, mean - spread.deviation});
      band.high.push_back({at, mean + spread.deviation});
    }
    if (line.points.empty()) continue;
    chart.lines.push_back(std::move(line));
    if (row.runs.size() > 1) chart.bands.push_back(std::move(band));
  }
  if (choice.is_difference && chart.lines.size() < 2) return {};
  return line_chart(chart);
}

// --- bars ---

size_t column_of(std::string_view key) {
  const auto columns = table_columns();
  const auto found = std::ranges::find(columns, key, &TableColumn::key);
  SLUICE_INTERNAL_CHECK(found != columns.end(), "no column {}", key);
  return static_cast<size_t>(found - columns.begin());
}

std::string cell_text(const TableColumn& column, const TableCell& cell) {
  const auto number = [&](double value) {
    return column.decimals == 0 ? with_commas(std::llround(value * column.scale))
                                : fmt::format("{:.{}f}", value * column.scale, column.decimals);
  };
  std::string text = number(cell.mean);
  if (cell.deviation && column.better != TableColumn::Better::neither) {
    text += " ± " + number(*cell.deviation);
  }
  return text;
}

std::string sentence(std::string_view clause) {
  std::string text(clause);
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 32);
  return text + ".";
}

std::string bars(const ModelRows& model, std::string_view key, std::string title,
                 bool begins_at_zero) {
  const size_t index = column_of(key);
  const TableColumn& column = table_columns()[index];
  BarChart chart{.id = fmt::format("{}-{}", key, model.number),
                 .title = std::move(title),
                 .note = sentence(column.doc),
                 .begins_at_zero = begins_at_zero,
                 .width = kHalf};
  for (const ModelRows::Row& row : model.rows) {
    const TableCell& cell = row.row->cells[index];
    if (cell.count == 0) continue;
    chart.bars.push_back({.name = row.row->variation,
                          .value = cell.mean,
                          .spread = cell.deviation.value_or(0.0),
                          .text = cell_text(column, cell),
                          .colour = row.colour});
  }
  return bar_chart(chart);
}

// --- the table ---

std::string table_html(const ComparisonTable& table, const ModelRows& model) {
  const auto columns = table_columns();
  std::vector<size_t> shown;
  for (size_t i = 0; i < columns.size(); ++i) {
    const bool has_value = std::ranges::any_of(
        model.rows, [&](const auto& row) { return row.row->cells[i].count > 0; });
    if (has_value) shown.push_back(i);
  }
  std::string head = "<th class=\"text\">variation</th><th>seeds</th>";
  for (const size_t i : shown) {
    head += fmt::format("<th title=\"{}\">{}</th>", escaped(columns[i].doc),
                        escaped(columns[i].header));
  }
  std::string body;
  for (const ModelRows::Row& row : model.rows) {
    body += fmt::format(
        "<tr><th scope=\"row\" class=\"text\"><i class=\"key {}\"></i>{}</th><td>{}/{}</td>",
        row.colour, escaped(row.row->variation), row.row->seeds_done, table.seeds);
    for (const size_t i : shown) {
      const TableCell& cell = row.row->cells[i];
      body += fmt::format("<td{}>{}</td>", cell.is_best ? " class=\"best\"" : "",
                          cell.count == 0 ? "–" : escaped(cell_text(columns[i], cell)));
    }
    body += "</tr>";
  }
  return "<div class=\"scroll\"><table class=\"list wide\"><thead><tr>" + head +
         "</tr></thead><tbody>" + body + "</tbody></table></div>";
}

// --- sections ---

Section model_section(const ComparisonTable& table, size_t number) {
  const ModelRows model = rows_of(table, number);
  Section section{.id = fmt::format("model-{}", number),
                  .title = model.name.empty() ? "Results" : model.name};
  section.lead =
      "Mean ± sample standard deviation over the seeds; the best of a column is bold. The bands of "
      "the curves are one standard deviation.";
  section.body = table_html(table, model);
  const auto chart = [&](std::string id, std::string title, std::string note, std::string x,
                         std::string y, double width) {
    return LineChart{.id = fmt::format("{}-{}", id, number),
                     .title = std::move(title),
                     .note = std::move(note),
                     .x_label = std::move(x),
                     .y_label = std::move(y),
                     .width = width,
                     .height = 380.0};
  };
  const std::string figures =
      curves(model, {.x = "tokens", .y = "eval/loss"},
             chart("tokens", "Held-out loss over tokens", "Every variation has seen the same text.",
                   "training tokens", "nats per token", kHalf)) +
      curves(model, {.x = "seconds", .y = "eval/loss"},
             chart("seconds", "Held-out loss over time",
                   std::isfinite(model.equal_seconds)
                       ? fmt::format("All runs have reached {}.", in_time(model.equal_seconds))
                       : "",
                   "seconds", "nats per token", kHalf));
  section.body += "<div class=\"pair\">" + figures + "</div>";
  section.body +=
      curves(model, {.x = "tokens", .y = "eval/loss", .is_difference = true},
             chart("difference",
                   fmt::format("Held-out loss against {}", model.rows.front().row->variation),
                   "Difference of the means at equal tokens; below zero is better.",
                   "training tokens", "nats per token", kFull));
  LineChart violation = chart("violation", "MaxVio over tokens",
                              "Load of the busiest expert over the mean load, minus 1; mean over "
                              "layers, at the recorded steps.",
                              "training tokens", "MaxVio", kFull);
  violation.can_be_logarithmic = true;
  violation.starts_at_zero = true;
  section.body +=
      curves(model, {.which = WhichCurve::train, .x = "tokens", .y = "load/max_violation"},
             std::move(violation));
  section.body += "<div class=\"pair\">" + bars(model, "loss", "Held-out loss at the end", false) +
                  bars(model, "loss_at_equal_seconds", "Held-out loss at equal seconds", false) +
                  bars(model, "avg_max_violation", "AvgMaxVio", true) +
                  bars(model, "specialisation_mean", "Domain specialisation", false) +
                  bars(model, "tokens_per_second", "Tokens per second", true) +
                  bars(model, "router_fraction", "Time in routers and balancing", true) + "</div>";
  return section;
}

Section notes_section(const ComparisonTable& table) {
  Section section{.id = "notes", .title = "Notes"};
  for (const std::string& note : table.notes) section.body += missing(note);
  for (const ComparisonTable::Run& run : table.runs) {
    const RunResult& result = *run.result;
    if (result.status == RunStatus::diverged) {
      section.body += missing(fmt::format("{} {}, seed {}, diverged: {}", result.model,
                                          result.variation, result.seed, result.problem));
    } else if (!result.note.empty() && run.result->seed == table.runs.front().result->seed) {
      section.body +=
          missing(fmt::format("{} {}: {}", result.model, result.variation, result.note));
    }
  }
  if (section.body.empty()) section.title.clear();
  return section;
}

std::string distinct(const ComparisonTable& table, std::string (*of)(const RunResult&)) {
  std::set<std::string> values;
  for (const ComparisonTable::Run& run : table.runs) values.insert(of(*run.result));
  std::string text;
  for (const std::string& value : values) text += (text.empty() ? "" : "; ") + value;
  return text;
}

Section environment_section(const ComparisonTable& table) {
  Section section{.id = "environment", .title = "Environment"};
  section.body = facts_table({{"Processor", distinct(table, machine_of)},
                              {"Build", distinct(table, [](const RunResult& r) {
                                 return fmt::format("sluice {}, {}", r.version, r.build);
                               })}});
  const RunResult& first = *table.runs.front().result;
  section.body += fmt::format(
      "<details><summary>Recipe of {} {}, seed {}</summary><pre>{}</pre></details>",
      escaped(first.model), escaped(first.variation), first.seed, highlighted_yaml(first.recipe));
  return section;
}

std::vector<Tile> tiles_of(const ComparisonTable& table) {
  int64_t tokens = 0;
  double seconds = 0.0;
  std::set<std::string> variations;
  for (const TableRow& row : table.rows) variations.insert(row.variation);
  for (const ComparisonTable::Run& run : table.runs) {
    tokens = std::max(tokens, run.result->tokens);
    seconds += run.result->seconds;
  }
  const auto planned = static_cast<int64_t>(table.rows.size()) * table.seeds;
  return {
      {"Runs", with_commas(static_cast<int64_t>(table.runs.size())),
       fmt::format("of {}", with_commas(planned))},
      {"Variations", std::to_string(variations.size()), counted(std::ssize(table.models), "model")},
      {"Tokens", in_millions(static_cast<double>(tokens)), "of each run"},
      {"Time", in_time(seconds), "of all runs"}};
}

/// Where a variation stands among others of its model.
int rank_of(const std::string& variation) {
  if (variation == kDenseTwin) return 2;
  return variation == "none" ? 0 : 1;
}

}  // namespace

std::string comparison_report(std::string_view name, const ComparisonTable& table) {
  SLUICE_CHECK(ConfigError, !table.runs.empty(), "{}: nothing to report: no run has a result",
               name);
  Page page{.kind = "Comparison",
            .title = std::string(name),
            .lead = "Variations of one recipe, on the same text and seeds.",
            .tiles = tiles_of(table)};
  for (size_t model = 0; model < table.models.size(); ++model) {
    page.sections.push_back(model_section(table, model));
  }
  for (Section section : {notes_section(table), environment_section(table)}) {
    if (!section.title.empty()) page.sections.push_back(std::move(section));
  }
  page.foot = fmt::format("Made by sluice {} from the files of results.", SLUICE_VERSION);
  return page_html(page);
}

fs::path results_folder_of(const fs::path& folder) {
  for (const fs::path& candidate : {folder / "results", folder}) {
    std::error_code failed;
    for (const auto& entry : fs::directory_iterator(candidate, failed)) {
      if (entry.path().extension() == ".json" && entry.path().filename() != "overview.json") {
        return candidate;
      }
    }
  }
  return {};
}

std::string comparison_report(const fs::path& results_folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(results_folder)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::ranges::sort(files);
  std::vector<RunResult> results;
  for (const fs::path& file : files) {
    if (auto result = read_result(file)) results.push_back(std::move(*result));
  }
  SLUICE_CHECK(ConfigError, !results.empty(), "{}: nothing to report: no result in it",
               results_folder.string());
  std::ranges::stable_sort(results, {}, [](const RunResult& result) {
    return std::tuple(result.model, rank_of(result.variation), result.variation, result.seed);
  });
  Comparison comparison{.name = results.front().comparison};
  std::set<int64_t> seeds;
  for (const RunResult& result : results) {
    seeds.insert(result.seed);
    const bool is_new = comparison.cells.empty() || comparison.cells.back().model != result.model ||
                        comparison.cells.back().variation != result.variation;
    if (!is_new) continue;
    ComparisonCell& cell = comparison.cells.emplace_back();
    cell.model = result.model;
    cell.variation = result.variation;
  }
  comparison.config.seeds.assign(seeds.begin(), seeds.end());
  return comparison_report(comparison.name, make_table(comparison, results));
}

}  // namespace sluice::report
