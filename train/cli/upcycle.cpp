// `sluice upcycle RECIPE`: a run folder whose first checkpoint is a dense model turned into experts.

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "train/cli/command.h"
#include "train/cli/console_reporter.h"
#include "train/trainer.h"

namespace sluice {
namespace {

struct UpcycleFlags {
  RecipeFlags recipe;
  std::optional<std::string> out;
};

int upcycle(const UpcycleFlags& flags) {
  Recipe recipe = load_recipe(flags.recipe.source());
  SLUICE_CHECK(ConfigError, recipe.upcycle != nullptr,
               "{}: has no section upcycle that names a dense checkpoint (from) and a scheme",
               flags.recipe.files.front());
  SLUICE_CHECK(ConfigError, !flags.out || !flags.out->empty(),
               "--out: found \"\", a folder is needed");
  TrainerOptions options;
  options.folder = flags.out ? std::filesystem::path(*flags.out)
                             : std::filesystem::path("runs") / flags.recipe.run_name();
  SLUICE_CHECK(ConfigError, !std::filesystem::exists(options.folder / "checkpoints"),
               "{}: holds a run already; give another folder with --out", options.folder.string());
  options.console = ConsoleTarget::standard_output();
  ConsoleReporter reporter(stdout);
  Trainer trainer(std::move(recipe), options, reporter);
  (void)trainer.start();
  return 0;
}

}  // namespace

const Command upcycle_command = {
    .name = "upcycle",
    .summary = "Turn a dense checkpoint into a Mixture-of-Experts run, and say what that changed",
    .example =
        "sluice upcycle recipes/upcycle_copy.yaml --set upcycle.from=runs/upcycle_dense --out "
        "runs/upcycled   (runs/upcycle_dense: sluice train recipes/upcycle_dense.yaml)",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<UpcycleFlags>();
      flags->recipe.declare(app);
      app.add_option("--out", flags->out, "folder of the run (runs/<name of the recipe>)")
          ->type_name("DIR");
      return [flags] { return upcycle(*flags); };
    },
};

}  // namespace sluice
