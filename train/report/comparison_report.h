#pragma once
// `sluice report COMPARISON`: one page about the variations of one recipe.
//
//   folder / "report.html"  <-  report::comparison_report("balance_bakeoff", make_table(...));

#include <filesystem>
#include <string>
#include <string_view>

#include "train/compare/table.h"

namespace sluice::report {

/// The page, a whole HTML document that needs nothing else.
[[nodiscard]] std::string comparison_report(std::string_view name, const ComparisonTable& table);

/// The folder of the results of `folder`: itself, or its `results`; empty when neither holds one.
[[nodiscard]] std::filesystem::path results_folder_of(const std::filesystem::path& folder);

/// The same of a folder of results alone: models by name, variations by name, but `none` before and
/// the dense twin after the others. Throws ConfigError when there is no result, CheckpointError for a
/// file that is none.
[[nodiscard]] std::string comparison_report(const std::filesystem::path& results_folder);

}  // namespace sluice::report
