#pragma once
// The sections of a run's report, one function each, in the order of the page. A section without
// data says so in a sentence, or has an empty title and is left out.

#include <optional>
#include <string>

#include "train/overview.h"
#include "train/report/page.h"
#include "train/report/run_records.h"

namespace sluice::report {

/// All that a report is made of.
struct RunMaterial {
  std::string name;
  RunRecords records;
  std::optional<SavedOverview> overview;  // runs of earlier versions have none
  std::string recipe;                     // resolved; empty without
};

[[nodiscard]] Section loss_section(const RunMaterial& run);
[[nodiscard]] Section optimisation_section(const RunMaterial& run);
[[nodiscard]] Section balance_section(const RunMaterial& run);
[[nodiscard]] Section router_section(const RunMaterial& run);
[[nodiscard]] Section load_section(const RunMaterial& run);
[[nodiscard]] Section specialisation_section(const RunMaterial& run);
[[nodiscard]] Section coactivation_section(const RunMaterial& run);
[[nodiscard]] Section learning_section(const RunMaterial& run);
[[nodiscard]] Section speed_section(const RunMaterial& run);
[[nodiscard]] Section memory_section(const RunMaterial& run);
[[nodiscard]] Section alarm_section(const RunMaterial& run);
[[nodiscard]] Section recipe_section(const RunMaterial& run);
[[nodiscard]] Section environment_section(const RunMaterial& run);

/// Whether the run has layers with experts.
[[nodiscard]] bool has_experts(const RunMaterial& run);

}  // namespace sluice::report
