#pragma once
// What a run left to look at: every metric as a curve, the loads of its experts over time, what the
// probes of its evaluations and its alarms say.
//
//   const RunRecords records = read_run_records(RunFolder::open_for_reading("runs/quickstart"));
//   if (const Series* loss = records.find("train/loss")) ...
//
// Memory is bounded, however long the run.

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "train/report/series.h"
#include "train/run_folder.h"

namespace sluice::report {

/// [layers][experts]; layers may differ in experts.
using PerExpert = std::vector<std::vector<double>>;

/// Assignments of a span of the run.
struct LoadFrame {
  int64_t first_step = 0;
  int64_t step = 0;  // the last of the span
  PerExpert load;
};

/// Loads over time. When there are more than `most` frames, neighbours are joined, by their sum.
class LoadFrames {
 public:
  /// `begin`: the first step that the first record is of.
  explicit LoadFrames(size_t most = 128, int64_t begin = 0) : most_(most), begin_(begin) {}
  /// A record whose shape differs from the one before starts anew.
  void add(int64_t step, PerExpert load);

  [[nodiscard]] bool empty() const { return frames_.empty(); }
  [[nodiscard]] const std::vector<LoadFrame>& frames() const { return frames_; }
  /// Over all frames.
  [[nodiscard]] PerExpert total() const;

 private:
  size_t most_;
  int64_t per_frame_ = 1;
  int64_t in_last_ = 0;  // records in the last frame
  int64_t begin_;        // of the first frame
  std::vector<LoadFrame> frames_;
};

/// The held-out tokens of one evaluation and the experts that they chose.
struct Probe {
  struct Domain {
    std::string name;
    double tokens = 0.0;
    PerExpert chosen;
  };
  int64_t step = 0;
  double tokens = 0.0;
  double top_k = 0.0;
  PerExpert chosen;  // tokens that chose the expert
  /// [layers][E][E] tokens that chose both; empty for a layer, or all, where it was not counted.
  std::vector<std::vector<std::vector<double>>> coactivation;
  std::vector<Domain> domains;
};

/// How much the experts learn, at one step.
struct ExpertLearning {
  int64_t step = 0;
  PerExpert gradient_share;
  PerExpert update_ratio;
};

/// All alarms of one name and layer.
struct Alarm {
  std::string name;
  std::optional<int64_t> layer;
  int64_t times = 0;
  int64_t first_step = 0;
  int64_t last_step = 0;
  double value = 0.0;  // of the last
  double threshold = 0.0;
  std::string advice;
};

struct RunRecords {
  int64_t step = 0;
  int64_t tokens = 0;
  double seconds = 0.0;
  std::map<std::string, Series, std::less<>> series;  // over steps, by the name of the metric
  LoadFrames loads;
  /// The loads are those of single steps (metrics.jsonl has no others), not of all.
  bool loads_are_samples = false;
  std::optional<Probe> probe;  // the last
  std::optional<Probe> pairs;  // the last that has a co-activation
  std::optional<ExpertLearning> learning;
  std::vector<Alarm> alarms;  // by first step

  /// Null for a metric that was not recorded, or never finite.
  [[nodiscard]] const Series* find(std::string_view name) const;
  /// The members of a family, "name/<part>" by part: numbers in their order, then names.
  [[nodiscard]] std::vector<std::pair<std::string, const Series*>> family(
      std::string_view name) const;
};

/// Throws ConfigError when the folder has no metrics.jsonl with a record, DataError for a damaged line
/// (read_json_lines.h).
[[nodiscard]] RunRecords read_run_records(const RunFolder& run);

}  // namespace sluice::report
