#pragma once
// The held-out loss of a trained model, on the text of its own recipe or on other files.

#include <string>
#include <string_view>
#include <vector>

#include "train/build.h"
#include "train/evaluate.h"

namespace sluice {

/// A file or folder to evaluate on.
struct EvaluationText {
  std::string path;
  std::string domain;  // empty: the file's name

  /// "text.txt" or "text.txt,prose"; a comma in the name of an existing file is part of it.
  [[nodiscard]] static EvaluationText parse(std::string_view text);
};

/// Files that hold the routes of an evaluation.
struct EvaluationTraces {
  std::string record;                    // written; empty: not recorded
  std::string replay;                    // decides instead of the routers; empty: they do
  bool replay_recorded_weights = false;  // with the recorded combine weights too
};

/// Without `texts`: the held-out split of the model's recipe, at the same length as during training
/// (train.evaluate.max_tokens). With `texts`: all of their documents. Throws ConfigError when
/// nothing is held out or a file is missing, DataError for text that cannot be used; and what
/// TraceWriter and TraceReplay throw.
[[nodiscard]] Evaluation evaluate_checkpoint(TrainedModel& trained,
                                             const std::vector<EvaluationText>& texts,
                                             const EvaluationTraces& traces = {});

}  // namespace sluice
