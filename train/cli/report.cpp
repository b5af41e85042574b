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

namespace fs = std::filesystem;

constexpr const char* kPageName = "report.html";

struct ReportFlags {
  std::string folder;
  std::optional<std::string> out;
};

/// A run's page, or a comparison's when the folder holds results.
std::string page_of(const fs::path& folder) {
  SLUICE_CHECK(ConfigError, !fs::is_regular_file(folder),
               "{}: is a file; give the folder of a run or of a comparison", folder.string());
  const RunFolder run = RunFolder::open_for_reading(folder);
  if (fs::exists(run.metrics())) return report::run_report(run);
  const fs::path results = report::results_folder_of(folder);
  SLUICE_CHECK(ConfigError, !results.empty(),
               "{}: nothing to report: neither a run (it holds no metrics.jsonl) nor a comparison "
               "(no results/*.json)",
               folder.string());
  return report::comparison_report(results);
}

/// `--out` may be a folder too.
fs::path page_file(const ReportFlags& flags) {
  const fs::path path = flags.out ? fs::path(*flags.out) : fs::path(flags.folder);
  return !flags.out || fs::is_directory(path) ? path / kPageName : path;
}

int write_report(const ReportFlags& flags) {
  SLUICE_CHECK(ConfigError, !flags.out || !flags.out->empty(),
               "--out: found \"\", a file is needed");
  const std::string page = page_of(flags.folder);
  const fs::path path = page_file(flags);
  create_folders(real_file_system(), fs::absolute(path).parent_path(), raise_as<DataError>);
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
      app.add_option("--out", flags->out, "file to write, or its folder (FOLDER/report.html)")
          ->type_name("FILE");
      return [flags] { return write_report(*flags); };
    },
};

}  // namespace sluice
