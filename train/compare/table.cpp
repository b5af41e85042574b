#include "train/compare/table.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "autograd/support/error.h"
#include "train/format.h"

namespace sluice {
namespace {

using Better = TableColumn::Better;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

constexpr TableColumn kColumns[] = {
    {"loss", "loss", "held-out loss at equal tokens, nats per token", 4, 1.0, Better::lower},
    {"bits_per_byte", "bits/byte", "held-out bits per byte at equal tokens", 4, 1.0, Better::lower,
     false},
    {"loss_at_equal_seconds", "loss at equal s", "held-out loss at equal seconds", 4, 1.0,
     Better::lower},
    {"avg_max_violation", "AvgMaxVio", "mean of MaxVio over all steps", 3, 1.0, Better::lower},
    {"sup_max_violation", "SupMaxVio", "largest MaxVio of all steps", 3, 1.0, Better::lower},
    {"first_max_violation", "MaxVio first 100", "mean of MaxVio over the first 100 steps", 3, 1.0,
     Better::lower},
    {"eval_max_violation", "MaxVio eval", "MaxVio over the held-out text", 3, 1.0, Better::lower,
     false},
    {"dead_experts", "dead", "experts without a token in the last 100 steps, all layers", 1, 1.0,
     Better::lower},
    {"dropped_fraction", "drops %", "assignments dropped for capacity, last step", 2, 100.0,
     Better::lower},
    {"specialisation_mean", "special.", "domain specialisation, mean over domains", 3, 1.0,
     Better::higher},
    {"specialisation_max", "special. max", "domain specialisation of the most special domain", 3,
     1.0, Better::higher, false},
    {"domain_information", "dom. info", "what the expert tells about the domain, in nats", 3, 1.0,
     Better::higher},
    {"tokens_per_second", "tok/s", "training tokens per second, median", 0, 1.0, Better::higher},
    {"relative_speed", "speed", "tokens per second over those of the model's first variation", 2,
     1.0, Better::higher},
    {"router_fraction", "router %", "share of the step's time in routers and balancing", 1, 100.0,
     Better::lower},
    {"seconds", "seconds", "of the whole run, evaluation included", 1, 1.0, Better::neither, false},
    {"peak_bytes", "tensors MB", "high-water mark of the tensor pool", 1, 1e-6, Better::neither,
     false},
    {"parameters_active", "active", "parameters that a token uses", 0, 1.0, Better::neither, false},
};
constexpr size_t kNumColumns = std::size(kColumns);

size_t column_index(std::string_view key) {
  const auto* found = std::ranges::find(kColumns, key, &TableColumn::key);
  SLUICE_INTERNAL_CHECK(found != std::end(kColumns), "no column {}", key);
  return static_cast<size_t>(found - kColumns);
}

// --- values of one run ---

/// The curve of held-out losses at `seconds`, linear between its points.
std::optional<double> loss_at(const RunResult& result, double seconds) {
  const auto& times = result.eval_curve.column("seconds");
  const auto& losses = result.eval_curve.column("eval/loss");
  for (size_t i = 0; i < times.size(); ++i) {
    if (times[i] < seconds) continue;
    if (i == 0) return times[0] == seconds ? std::optional(losses[0]) : std::nullopt;
    const double part = (seconds - times[i - 1]) / (times[i] - times[i - 1]);
    return losses[i - 1] + part * (losses[i] - losses[i - 1]);
  }
  return std::nullopt;
}

struct Specialisation {
  std::optional<double> mean;
  std::optional<double> max;
};

/// eval/specialisation, or the mean of eval/specialisation/<domain>.
Specialisation specialisation_of(const RunResult& result) {
  constexpr std::string_view kName = "eval/specialisation";
  Specialisation found{.mean = result.metric(kName)};
  double sum = 0.0;
  int64_t count = 0;
  for (const auto& [name, value] : result.metrics) {
    const std::string_view part =
        std::string_view(name).substr(std::min(name.size(), kName.size()));
    if (!name.starts_with(kName) || !part.starts_with('/')) continue;
    found.max = std::max(found.max.value_or(value), value);
    sum += value;
    ++count;
  }
  if (!found.mean && count > 0) found.mean = sum / static_cast<double>(count);
  return found;
}

/// Of routers and of balancing, which are measured apart.
std::optional<double> router_fraction_of(const RunResult& result) {
  const auto routers = result.metric("speed/router_fraction");
  if (!routers) return std::nullopt;
  return *routers + result.metric("speed/phase_fraction/balancing").value_or(0.0);
}

std::vector<std::optional<double>> values_of(const RunResult& result, double equal_seconds) {
  std::vector<std::optional<double>> values(kNumColumns);
  const auto set = [&](std::string_view key, std::optional<double> value) {
    values[column_index(key)] = value;
  };
  if (result.status == RunStatus::diverged) return values;
  set("loss", result.metric("eval/loss"));
  set("bits_per_byte", result.metric("eval/bits_per_byte"));
  set("loss_at_equal_seconds", loss_at(result, equal_seconds));
  set("avg_max_violation", result.metric("load/average_max_violation"));
  set("sup_max_violation", result.metric("load/supreme_max_violation"));
  set("first_max_violation", result.metric("load/first_max_violation"));
  set("eval_max_violation", result.metric("eval/max_violation"));
  set("dead_experts", result.metric("load/dead_experts"));
  set("dropped_fraction", result.metric("load/dropped_fraction"));
  const Specialisation specialisation = specialisation_of(result);
  set("specialisation_mean", specialisation.mean);
  set("specialisation_max", specialisation.max);
  set("domain_information", result.metric("eval/domain_information"));
  set("tokens_per_second", result.metric("speed/tokens_per_second"));
  if (!result.is_twin) set("router_fraction", router_fraction_of(result));
  set("seconds", result.seconds);
  set("peak_bytes", result.metric("memory/peak_bytes"));
  set("parameters_active", static_cast<double>(result.parameters_active));
  return values;
}

// --- rows ---

TableCell cell_of(const std::vector<double>& values) {
  TableCell cell{.count = static_cast<int64_t>(values.size())};
  if (values.empty()) return cell;
  const auto count = static_cast<double>(values.size());
  for (const double value : values) cell.mean += value;
  cell.mean /= count;
  if (values.size() < 2) return cell;
  double squares = 0.0;
  for (const double value : values) squares += (value - cell.mean) * (value - cell.mean);
  cell.deviation = std::sqrt(squares / (count - 1.0));
  return cell;
}

/// The latest moment that every finished run of the model has reached.
double shortest_run(const std::string& model, const std::vector<RunResult>& results) {
  double seconds = kNaN;
  for (const RunResult& result : results) {
    if (result.model != model || result.status != RunStatus::done) continue;
    const auto& times = result.eval_curve.column("seconds");
    if (!times.empty()) seconds = std::fmin(seconds, times.back());
  }
  return seconds;
}

/// Tokens per second over the mean of the model's first variation.
void add_relative_speed(ComparisonTable& table, const std::string& model) {
  const size_t speed = column_index("tokens_per_second");
  const size_t relative = column_index("relative_speed");
  const auto first = std::ranges::find(table.rows, model, &TableRow::model);
  if (first == table.rows.end() || first->cells[speed].count == 0) return;
  const double base = first->cells[speed].mean;
  for (TableRow& row : table.rows) {
    if (row.model != model || row.cells[speed].count == 0) continue;
    row.cells[relative] = row.cells[speed];
    row.cells[relative].mean /= base;
    if (auto& deviation = row.cells[relative].deviation) *deviation /= base;
  }
  for (ComparisonTable::Run& run : table.runs) {
    if (run.result->model == model && run.values[speed]) {
      run.values[relative] = *run.values[speed] / base;
    }
  }
}

void mark_best(ComparisonTable& table, const std::string& model, size_t column) {
  if (kColumns[column].better == Better::neither) return;
  TableCell* best = nullptr;
  for (TableRow& row : table.rows) {
    TableCell& cell = row.cells[column];
    if (row.model != model || cell.count == 0) continue;
    const bool is_better =
        best == nullptr || (kColumns[column].better == Better::lower ? cell.mean < best->mean
                                                                     : cell.mean > best->mean);
    if (is_better) best = &cell;
  }
  if (best == nullptr) return;
  int64_t rows = 0;
  for (TableRow& row : table.rows) {
    if (row.model == model && row.cells[column].count > 0) ++rows;
  }
  // All that are equal to the best, unless that is everybody.
  int64_t equal = 0;
  for (const TableRow& row : table.rows) {
    const TableCell& cell = row.cells[column];
    if (row.model == model && cell.count > 0 && cell.mean == best->mean) ++equal;
  }
  if (equal == rows) return;
  const double value = best->mean;
  for (TableRow& row : table.rows) {
    TableCell& cell = row.cells[column];
    if (row.model == model && cell.count > 0) cell.is_best = cell.mean == value;
  }
}

void note_machines(const std::vector<RunResult>& results, ComparisonTable& table) {
  std::set<std::string> machines;
  for (const RunResult& result : results) machines.insert(machine_of(result));
  if (machines.size() > 1) {
    table.notes.push_back(
        fmt::format("speeds and losses at equal seconds are of {} different machines or shares of "
                    "one ({}), and compare only within each",
                    machines.size(), fmt::join(machines, "; ")));
  } else if (!results.empty() && results.front().jobs > 1) {
    table.notes.push_back(fmt::format("speeds were measured while {} runs shared the processor",
                                      results.front().jobs));
  }
}

/// Why a loss at equal seconds is missing: the run was first evaluated later.
void note_equal_seconds(ComparisonTable& table) {
  const size_t column = column_index("loss_at_equal_seconds");
  for (size_t m = 0; m < table.models.size(); ++m) {
    std::vector<std::string> names;
    int64_t late = 0;
    for (const ComparisonTable::Run& run : table.runs) {
      const RunResult& result = *run.result;
      if (result.model != table.models[m] || result.status != RunStatus::done) continue;
      if (run.values[column] || result.eval_curve.column("seconds").empty()) continue;
      ++late;
      if (std::ranges::find(names, result.variation) == names.end()) {
        names.push_back(result.variation);
      }
    }
    if (late == 0) continue;
    table.notes.push_back(
        fmt::format("{}{}no loss at equal seconds for {} of {}: the first evaluation came after "
                    "{:.1f} s, the end of the shortest run; evaluate more often "
                    "(train.evaluate.every)",
                    table.models[m], table.models[m].empty() ? "" : ": ", counted(late, "run"),
                    fmt::join(names, ", "), table.equal_seconds[m]));
  }
}

// --- text ---

bool has_value(const ComparisonTable& table, size_t column, std::string_view model) {
  return std::ranges::any_of(table.rows, [&](const TableRow& row) {
    return row.model == model && row.cells[column].count > 0;
  });
}

std::string number(const TableColumn& column, const TableCell& cell) {
  if (cell.count == 0) return "-";
  std::string text = fmt::format("{:.{}f}", cell.mean * column.scale, column.decimals);
  if (cell.deviation && column.better != Better::neither) {
    text += fmt::format(" ± {:.{}f}", *cell.deviation * column.scale, column.decimals);
  }
  return text;
}

std::string seeds_text(const ComparisonTable& table, const TableRow& row) {
  std::string text = fmt::format("{}/{}", row.seeds_done, table.seeds);
  if (row.seeds_diverged > 0) text += fmt::format(" ({} diverged)", row.seeds_diverged);
  return text;
}

/// Characters, not bytes.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) >> 6) != 2; }));
}

void append_padded(std::string& out, std::string_view text, size_t width, bool to_the_right) {
  const std::string padding(width - std::min(width, width_of(text)), ' ');
  out += to_the_right ? padding + std::string(text) : std::string(text) + padding;
}

using Grid = std::vector<std::vector<std::string>>;

std::string aligned(const Grid& grid) {
  std::vector<size_t> widths(grid.front().size());
  for (const auto& line : grid) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], width_of(line[i]));
  }
  std::string out;
  for (const auto& line : grid) {
    std::string text;
    for (size_t i = 0; i < line.size(); ++i) {
      if (i > 0) text += "  ";
      append_padded(text, line[i], widths[i], i > 0);
    }
    out += text + '\n';
  }
  return out;
}

std::vector<size_t> columns_of(const ComparisonTable& table, std::string_view model,
                               bool only_narrow) {
  std::vector<size_t> columns;
  for (size_t i = 0; i < kNumColumns; ++i) {
    if (only_narrow && !kColumns[i].is_narrow) continue;
    if (has_value(table, i, model)) columns.push_back(i);
  }
  return columns;
}

Grid grid_of(const ComparisonTable& table, std::string_view model,
             const std::vector<size_t>& columns, std::string_view open, std::string_view close) {
  Grid grid;
  auto& header = grid.emplace_back();
  header = {"variation", "seeds"};
  for (const size_t column : columns) header.emplace_back(kColumns[column].header);
  for (const TableRow& row : table.rows) {
    if (row.model != model) continue;
    auto& line = grid.emplace_back();
    line = {row.variation, seeds_text(table, row)};
    for (const size_t column : columns) {
      const TableCell& cell = row.cells[column];
      const std::string text = number(kColumns[column], cell);
      line.push_back(cell.is_best ? fmt::format("{}{}{}", open, text, close) : text);
    }
  }
  return grid;
}

std::string explanation(const ComparisonTable& table, size_t model) {
  const double seconds = table.equal_seconds[model];
  return std::isnan(seconds) ? "no run is done"
                             : fmt::format("equal seconds: {:.1f}, the shortest run", seconds);
}

std::string csv_word(std::string_view text) {
  if (text.find_first_of(",\"\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

std::string csv_number(std::optional<double> value) {
  return value && std::isfinite(*value) ? fmt::format("{}", *value) : "";
}

}  // namespace

std::span<const TableColumn> table_columns() { return kColumns; }

std::string machine_of(const RunResult& result) {
  return fmt::format("{}, {}, {} at a time", result.processor, counted(result.threads, "thread"),
                     result.jobs);
}

ComparisonTable make_table(const Comparison& comparison, const std::vector<RunResult>& results) {
  ComparisonTable table{.seeds = static_cast<int64_t>(comparison.config.seeds.size())};
  for (const ComparisonCell& cell : comparison.cells) {
    if (std::ranges::find(table.models, cell.model) == table.models.end()) {
      table.models.push_back(cell.model);
      table.equal_seconds.push_back(shortest_run(cell.model, results));
    }
    TableRow row{.model = cell.model, .variation = cell.variation};
    std::vector<std::vector<double>> values(kNumColumns);
    for (const RunResult& result : results) {
      if (result.model != cell.model || result.variation != cell.variation) continue;
      ++(result.status == RunStatus::done ? row.seeds_done : row.seeds_diverged);
      table.runs.push_back({&result, values_of(result, table.equal_seconds.back())});
      for (size_t i = 0; i < kNumColumns; ++i) {
        if (const auto& value = table.runs.back().values[i]) values[i].push_back(*value);
      }
    }
    for (const auto& column : values) row.cells.push_back(cell_of(column));
    table.rows.push_back(std::move(row));
  }
  for (const std::string& model : table.models) {
    add_relative_speed(table, model);
    for (size_t i = 0; i < kNumColumns; ++i) mark_best(table, model, i);
  }
  note_machines(results, table);
  note_equal_seconds(table);
  return table;
}

std::string table_text(const ComparisonTable& table) {
  std::string out;
  for (size_t m = 0; m < table.models.size(); ++m) {
    const std::string& model = table.models[m];
    out += fmt::format("{}{}({}{})\n", model, model.empty() ? "" : "  ", explanation(table, m),
                       std::isnan(table.equal_seconds[m])
                           ? ""
                           : "; mean ± sample standard deviation over seeds, * best");
    out += aligned(grid_of(table, model, columns_of(table, model, true), "*", ""));
    out += '\n';
  }
  for (const std::string& note : table.notes) out += note + '\n';
  return out;
}

std::string table_markdown(const ComparisonTable& table) {
  std::string out;
  for (size_t m = 0; m < table.models.size(); ++m) {
    const std::string& model = table.models[m];
    if (!out.empty()) out += '\n';
    out += fmt::format("{}{}({}; mean ± sample standard deviation over seeds)\n\n", model,
                       model.empty() ? "" : " ", explanation(table, m));
    const Grid grid = grid_of(table, model, columns_of(table, model, false), "**", "**");
    for (size_t i = 0; i < grid.size(); ++i) {
      out += fmt::format("| {} |\n", fmt::join(grid[i], " | "));
      if (i == 0) {
        out += "| --- |";
        for (size_t c = 1; c < grid[0].size(); ++c) out += " ---: |";
        out += '\n';
      }
    }
  }
  for (const std::string& note : table.notes) out += fmt::format("\n{}\n", note);
  return out;
}

std::string table_csv(const ComparisonTable& table) {
  std::set<std::string> extra;
  for (const auto& run : table.runs) {
    for (const auto& [name, value] : run.result->metrics) {
      if (name.starts_with("eval/")) extra.insert(name);
    }
  }
  std::string out = "kind,model,variation,seed,status,seeds_done";
  for (const TableColumn& column : kColumns) out += fmt::format(",{}", column.key);
  for (const std::string& name : extra) out += ',' + csv_word(name);
  out += '\n';
  for (const TableRow& row : table.rows) {
    std::vector<std::vector<double>> extras(extra.size());
    for (const auto& run : table.runs) {
      const RunResult& result = *run.result;
      if (result.model != row.model || result.variation != row.variation) continue;
      out += fmt::format("run,{},{},{},{},1", row.model, row.variation, result.seed,
                         result.status == RunStatus::done ? "done" : "diverged");
      for (const auto& value : run.values) out += ',' + csv_number(value);
      size_t i = 0;
      for (const std::string& name : extra) {
        const auto value = result.metric(name);
        if (value) extras[i].push_back(*value);
        out += ',' + csv_number(value);
        ++i;
      }
      out += '\n';
    }
    std::vector<TableCell> cells = row.cells;
    for (const auto& values : extras) cells.push_back(cell_of(values));
    for (const bool is_mean : {true, false}) {
      out += fmt::format("{},{},{},,,{}", is_mean ? "mean" : "sd", row.model, row.variation,
                         row.seeds_done);
      for (const TableCell& cell : cells) {
        out += ',' + csv_number(cell.count == 0 ? std::nullopt
                                : is_mean       ? std::optional(cell.mean)
                                                : cell.deviation);
      }
      out += '\n';
    }
  }
  return out;
}

}  // namespace sluice
