#pragma once
// `CHECKPOINT|RUN --best`: the trained model that a command looks at.

#include <string>

#include "train/find_checkpoint.h"

namespace CLI {
class App;
}

namespace sluice {

struct CheckpointFlags {
  std::string path;
  bool best = false;

  /// `doc` and `kinds` for a command that takes other files too.
  void declare(CLI::App& app,
               const std::string& doc =
                   "a checkpoint file, or the folder of a run: its newest whole checkpoint",
               const std::string& kinds = "CHECKPOINT|RUN");
  [[nodiscard]] CheckpointChoice choice() const {
    return best ? CheckpointChoice::best : CheckpointChoice::newest;
  }
  /// See find_checkpoint; what it notes goes to stderr.
  [[nodiscard]] CheckpointStore::Found find() const;
};

/// `--without-experts 2,5`, for commands that only compute with a model.
void declare_left_out(CLI::App& app, std::string& experts);
/// `checkpoint` without the experts of that flag, if it names any.
[[nodiscard]] Checkpoint without_experts(Checkpoint checkpoint, const std::string& name,
                                         const std::string& experts);

/// `--weights f32|bf16`, for commands that only compute with a model.
void declare_weights(CLI::App& app, WeightStorage& weights);

/// One sentence that a person should see, on stderr.
void print_note(const std::string& sentence);

}  // namespace sluice
