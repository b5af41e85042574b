#pragma once
// `sluice report RUN`: one page about one run.
//
//   const RunFolder run = RunFolder::open_for_reading("runs/quickstart");
//   run.write_report(report::run_report(run));

#include <string>

#include "train/run_folder.h"

namespace sluice::report {

/// The page, a whole HTML document that needs nothing else. Throws ConfigError when the folder holds
/// no run with records, DataError for damaged ones.
[[nodiscard]] std::string run_report(const RunFolder& run);

}  // namespace sluice::report
