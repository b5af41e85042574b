#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "train/cli/command.h"
#include "train/report/run_report.h"

namespace sluice {
namespace {

struct ReportFlags {
  std::string folder;
  std::optional<std::string> out;
};

int write_report(const ReportFlags& flags) {
  SLUICE_CHECK(ConfigError, !flags.out || !flags.out->empty(),
               "--out: found \"\", a file is needed");
  const RunFolder run = RunFolder::open_for_reading(flags.folder);
  const std::string page = report::run_report(run);
  const std::filesystem::path path = flags.out ? std::filesystem::path(*flags.out) : run.report();
  write_file_atomically(real_file_system(), path, bytes_of(page), raise_as<DataError>);
  fmt::print("{}\n", path.string());
  return 0;
}

}  // namespace

const Command report_command = {
    .name = "report",
    .summary = "Show a run as one HTML page with plots, which needs no network",
    .example = "sluice report runs/quickstart",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<ReportFlags>();
      app.add_option("FOLDER", flags->folder, "folder of a run")->required()->type_name("");
      app.add_option("--out", flags->out, "file to write (FOLDER/report.html)")->type_name("FILE");
      return [flags] { return write_report(*flags); };
    },
};

}  // namespace sluice
