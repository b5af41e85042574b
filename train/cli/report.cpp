#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "train/cli/command.h"
#include "train/report/comparison_report.h"
#include "train/report/run_report.h"

namespace sluice {
namespace {

struct ReportFlags {
  std::string folder;
  std::optional<std::string> out;
};

/// A run's page, or a comparison's when the folder holds results.
std::string page_of(const std::filesystem::path& folder) {
  const RunFolder run = RunFolder::open_for_reading(folder);
  if (std::filesystem::exists(run.metrics())) return report::run_report(run);
  const std::filesystem::path results = report::results_folder_of(folder);
  SLUICE_CHECK(ConfigError, !results.empty(),
               "{}: nothing to report: neither a run (it holds no metrics.jsonl) nor a comparison "
               "(no results/*.json)",
               folder.string());
  return report::comparison_report(results);
}

int write_report(const ReportFlags& flags) {
  SLUICE_CHECK(ConfigError, !flags.out || !flags.out->empty(),
               "--out: found \"\", a file is needed");
  const std::string page = page_of(flags.folder);
  const std::filesystem::path path = flags.out
                                         ? std::filesystem::path(*flags.out)
                                         : std::filesystem::path(flags.folder) / "report.html";
  write_file_atomically(real_file_system(), path, bytes_of(page), raise_as<DataError>);
  fmt::print("{}\n", path.string());
  return 0;
}

}  // namespace

const Command report_command = {
    .name = "report",
    .summary = "Show a run or a comparison as one HTML page with plots, which needs no network",
    .example = "sluice report runs/quickstart",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<ReportFlags>();
      app.add_option("FOLDER", flags->folder, "folder of a run or of a comparison")
          ->required()
          ->type_name("");
      app.add_option("--out", flags->out, "file to write (FOLDER/report.html)")->type_name("FILE");
      return [flags] { return write_report(*flags); };
    },
};

}  // namespace sluice
