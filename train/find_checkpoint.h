#pragma once
// The checkpoint that a path means, for commands that only look: a checkpoint file itself, or the
// folder of a run.
//
//   std::vector<std::string> notes;
//   const auto found = find_checkpoint("runs/quickstart", CheckpointChoice::newest, notes);
//   TrainedModel trained = build_trained_model(found.checkpoint, found.path.string());

#include <filesystem>
#include <string>
#include <vector>

#include "train/build.h"
#include "train/checkpoint/store.h"

namespace sluice {

/// Which checkpoint stands for a run.
enum class CheckpointChoice : uint8_t {
  newest,
  best,  // the one with the lowest held-out loss
};

/// A file is read as it is, and must be whole. In a folder the newest or best of the whole ones is
/// taken; damaged ones are named in `notes`. Throws ConfigError when there is no such path, or no
/// checkpoint in the folder; CheckpointError when what is there cannot be used.
[[nodiscard]] CheckpointStore::Found find_checkpoint(const std::filesystem::path& path,
                                                     CheckpointChoice choice,
                                                     std::vector<std::string>& notes);

/// The folder that holds the checkpoints of the run in `folder`: "checkpoints" in it, or itself.
[[nodiscard]] std::filesystem::path checkpoint_folder(const std::filesystem::path& folder);

/// Where a trained model stands in its run, for the numbers that a schedule gives (top-k,
/// temperature). A run counted in epochs whose pass is of unknown length is taken to be complete.
[[nodiscard]] Progress progress_of(const Recipe& recipe, const CheckpointMeta& meta);

}  // namespace sluice
