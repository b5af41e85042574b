#pragma once
// The results of a comparison as one table: a row per model and variation, mean and sample standard
// deviation over the seeds that are done.
//
// Loss at equal tokens is the held-out loss at the end of the run. Loss at equal seconds is read
// from each run's curve of held-out losses, linear between its points, at the end of the fastest run
// of the model's group: the latest moment that all of them have reached. It means something only
// where the runs shared a machine.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/compare/comparison.h"
#include "train/compare/result.h"

namespace sluice {

struct TableColumn {
  enum class Better : uint8_t { lower, higher, neither };
  std::string_view key;     // in table.csv: stable
  std::string_view header;  // for people
  std::string_view doc;
  int decimals = 3;
  double scale = 1.0;  // of what people see: 100 for percent
  Better better = Better::neither;
  bool is_narrow = true;  // also in the terminal
};

/// All columns, in order.
[[nodiscard]] std::span<const TableColumn> table_columns();

/// Mean and spread of the seeds that have a value.
struct TableCell {
  int64_t count = 0;
  double mean = 0.0;
  std::optional<double> deviation;  // sample standard deviation; of two values or more
  bool is_best = false;             // of the model's rows
};

struct TableRow {
  std::string model;
  std::string variation;
  int64_t seeds_done = 0;
  int64_t seeds_diverged = 0;
  std::vector<TableCell> cells;  // one per column
};

struct ComparisonTable {
  struct Run {
    const RunResult* result;
    std::vector<std::optional<double>> values;  // one per column
  };
  std::vector<TableRow> rows;  // in the order of the comparison's cells
  std::vector<Run> runs;       // those that are done or diverged, by row and seed
  int64_t seeds = 0;
  std::vector<std::string> models;    // distinct, in order
  std::vector<double> equal_seconds;  // per model; NaN when nothing is done
  std::vector<std::string> notes;
};

/// Keeps pointers into `results`.
[[nodiscard]] ComparisonTable make_table(const Comparison& comparison,
                                         const std::vector<RunResult>& results);

/// "processor, 2 threads, 1 at a time": what a run had of a machine.
[[nodiscard]] std::string machine_of(const RunResult& result);

/// Aligned columns; the best of a column is marked with *.
[[nodiscard]] std::string table_text(const ComparisonTable& table);
/// One Markdown table per model; the best is bold.
[[nodiscard]] std::string table_markdown(const ComparisonTable& table);
/// A header, then one line per run and two per row (mean and sd). Beside the columns: every eval/
/// metric that any run has.
[[nodiscard]] std::string table_csv(const ComparisonTable& table);

}  // namespace sluice
