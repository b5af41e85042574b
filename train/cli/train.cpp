#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <memory>
#include <optional>

#include "train/cli/command.h"
#include "train/cli/console_reporter.h"
#include "train/trainer.h"

namespace sluice {
namespace {

struct TrainFlags {
  RecipeFlags recipe;
  std::optional<std::string> out;
  std::string resume = "auto";
  bool profile = false;
};

int run_training(const TrainFlags& flags) {
  SLUICE_CHECK(ConfigError, !flags.out || !flags.out->empty(),
               "--out: found \"\", a folder is needed");
  // A reader of the console that goes away does not end the run.
  std::signal(SIGPIPE, SIG_IGN);
  TrainerOptions options;
  options.folder = flags.out ? std::filesystem::path(*flags.out)
                             : std::filesystem::path("runs") / flags.recipe.run_name();
  options.resume = flags.resume;
  options.profile = flags.profile;
  options.console = ConsoleTarget::standard_output();
  ConsoleReporter reporter(stdout);
  Trainer trainer(load_recipe(flags.recipe.source()), options, reporter);
  const RunSummary summary = trainer.run();
  constexpr int kSignalBase = 128;
  return summary.reason == StopReason::signal ? kSignalBase + summary.signal : 0;
}

}  // namespace

const Command train_command = {
    .name = "train",
    .summary = "Train a model from a recipe; goes on where an earlier run of the folder stopped",
    .example = "sluice train recipes/quickstart.yaml --set train.steps=50 --out runs/short",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<TrainFlags>();
      flags->recipe.declare(app);
      app.add_option("--out", flags->out, "folder of the run (runs/<name of the recipe>)")
          ->type_name("DIR");
      app.add_option("--resume", flags->resume,
                     "auto: from the newest valid checkpoint; never; or a checkpoint file")
          ->type_name("auto|never|FILE")
          ->capture_default_str();
      app.add_flag("--profile", flags->profile,
                   "print the time and rates of every phase and op at the end, and write "
                   "profile.json into the folder, for Perfetto or chrome://tracing");
      return [flags] { return run_training(*flags); };
    },
};

}  // namespace sluice
