#include "train/inspect.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/format.h"
#include "train/inspect_text.h"
#include "train/trace/analysis_text.h"
#include "train/trace/trace_file.h"
#include "train/trace/trace_listing.h"

namespace sluice {
namespace {

struct InspectFlags {
  CheckpointFlags checkpoint;
  InspectionTextOptions text;
  TraceAnalysisOptions trace;
  std::string against;
  bool recipe = false;
  bool json = false;
};

bool asks_about_a_trace(const InspectFlags& flags) {
  return !flags.against.empty() || !flags.trace.segments.empty() || !flags.trace.cache.empty() ||
         flags.trace.vocabulary > 0;
}

int run_trace_inspection(InspectFlags flags) {
  SLUICE_CHECK(ConfigError, !flags.recipe && !flags.text.parameters && !flags.checkpoint.best,
               "{} is a routing trace; --recipe, --parameters and --best are for checkpoints",
               flags.checkpoint.path);
  SLUICE_CHECK(ConfigError, flags.against.empty() || std::filesystem::exists(flags.against),
               "--against: {}: no such file", flags.against);
  flags.trace.against = flags.against;
  const TraceAnalysis analysis = analyse_trace(flags.checkpoint.path, flags.trace);
  if (flags.json) {
    fmt::print("{}\n", analysis_json(analysis, flags.trace).dump(2));
  } else {
    fmt::print("{}", analysis_text(analysis, flags.trace));
  }
  return 0;
}

int run_trace_listing(const InspectFlags& flags, const std::vector<ListedTrace>& traces) {
  const std::string& folder = flags.checkpoint.path;
  SLUICE_CHECK(ConfigError,
               !flags.recipe && !flags.text.parameters && !flags.checkpoint.best &&
                   !asks_about_a_trace(flags),
               "{} is a folder of routing traces, of which only --json says more; name one of its "
               "files, as {}",
               folder, traces.front().path.string());
  if (flags.json) {
    fmt::print("{}\n", traces_json(folder, traces).dump(2));
  } else {
    fmt::print("{}", traces_text(folder, traces));
  }
  return 0;
}

/// The parser's own check names the largest double there is.
std::string check_positive(const std::string& text) {
  double value = 0.0;
  if (CLI::detail::lexical_cast(text, value) && std::isfinite(value) && value > 0.0) return {};
  return fmt::format("found \"{}\", allowed a number above 0", text);
}

int run_inspection(const InspectFlags& flags) {
  if (looks_like_trace(flags.checkpoint.path)) return run_trace_inspection(flags);
  const std::vector<ListedTrace> traces = list_traces(flags.checkpoint.path);
  if (!traces.empty()) return run_trace_listing(flags, traces);
  SLUICE_CHECK(ConfigError, !asks_about_a_trace(flags),
               "--against, --segments, --cache and --vocabulary are for routing traces; {} is none",
               flags.checkpoint.path);
  const Inspection found = inspect(flags.checkpoint.path, flags.checkpoint.choice());
  if (flags.recipe) {
    SLUICE_CHECK(CheckpointError, found.checkpoint.has_value(),
                 "{}: no checkpoint is whole, so none tells its recipe", flags.checkpoint.path);
    fmt::print("{}", found.checkpoint->meta.recipe);
  } else if (flags.json) {
    fmt::print("{}\n", inspection_json(found).dump(2));
  } else {
    fmt::print("{}", inspection_text(found, flags.text));
  }
  // A run that has saved nothing yet has nothing wrong with it.
  SLUICE_CHECK(CheckpointError, found.checkpoint.has_value() || found.run->files.empty(),
               "{}: no checkpoint is whole: {} found, all damaged", flags.checkpoint.path,
               counted(std::ssize(found.run->files), "checkpoint"));
  return 0;
}

}  // namespace

const Command inspect_command = {
    .name = "inspect",
    .summary =
        "What is in a checkpoint, a run or a routing trace: parameters, recipe, loads, routes",
    .example = "sluice inspect runs/quickstart",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<InspectFlags>();
      flags->checkpoint.declare(app,
                                "a checkpoint file, a routing trace or a folder of them, or the "
                                "folder of a run: its newest "
                                "whole checkpoint",
                                "CHECKPOINT|TRACE|RUN");
      app.add_flag("--parameters", flags->text.parameters, "with a line per parameter");
      auto* recipe = app.add_flag("--recipe", flags->recipe,
                                  "print the recipe, every key written out, and nothing else");
      app.add_flag("--json", flags->json, "print one JSON object")->excludes(recipe);
      app.add_option("--against", flags->against,
                     "of a trace: how many choices are as in this one, of the same tokens")
          ->type_name("TRACE.h5");
      app.add_option("--segments", flags->trace.segments,
                     "of a trace: how well one choice per so many tokens does, as in 4,16,64")
          ->delimiter(',')
          ->check(CLI::Range(int64_t{1}, int64_t{65536}))
          ->type_name("M");
      app.add_option("--cache", flags->trace.cache,
                     "of a trace: hit rates of caches of so many times k experts, as in 1,2,4")
          ->delimiter(',')
          ->check(check_positive)
          ->type_name("RHO");
      app.add_option("--vocabulary", flags->trace.vocabulary,
                     "of a trace: so many tokens that each expert is most given to")
          ->check(CLI::Range(int64_t{1}, int64_t{65536}))
          ->type_name("COUNT");
      return [flags] { return run_inspection(*flags); };
    },
};

}  // namespace sluice
