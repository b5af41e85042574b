#pragma once
// What a run left on the disk, without what may differ between equal runs.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/core/state.h"

namespace sluice::testing {

/// The arrays of a checkpoint file, without the seconds that the run took.
[[nodiscard]] StateDict state_in(const std::filesystem::path& checkpoint);

/// The records of a run's metrics.jsonl, in order, as text; without `seconds`, `speed/*` and
/// `memory/*`. Empty when there is no such file; an unfinished last line is left out.
[[nodiscard]] std::vector<std::string> metrics_in(const std::filesystem::path& run_folder);

/// The same of its routing.jsonl, whole.
[[nodiscard]] std::vector<nlohmann::json> routing_in(const std::filesystem::path& run_folder);

}  // namespace sluice::testing
