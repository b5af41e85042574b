#pragma once
// Where a run goes on from, and whether it may.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint/store.h"
#include "train/recipe.h"

namespace sluice {

/// The checkpoint that `resume` means for the run whose checkpoints `store` holds:
///   "auto"   the newest valid one; nothing for a folder without checkpoints; damaged ones are
///            named in `notes`, and CheckpointError when there are only such
///   "never"  nothing; ConfigError when the folder holds checkpoints, which a new run would mix
///            with its own
///   a file   that one, CheckpointError when it is damaged; ConfigError when the folder holds later
///            ones
[[nodiscard]] std::optional<CheckpointStore::Found> find_resume_point(
    const CheckpointStore& store, const std::string& resume, std::vector<std::string>& notes);

/// Throws ConfigError listing the keys that differ from the checkpoint's recipe and may not.
void check_same_recipe(const Recipe& recipe, const CheckpointStore::Found& from);

}  // namespace sluice
