#include "train/inspect.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/inspect_text.h"

namespace sluice {
namespace {

struct InspectFlags {
  CheckpointFlags checkpoint;
  InspectionTextOptions text;
  bool recipe = false;
  bool json = false;
};

int run_inspection(const InspectFlags& flags) {
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
  return 0;
}

}  // namespace

const Command inspect_command = {
    .name = "inspect",
    .summary = "What is in a checkpoint or a run: step, parameters, recipe, balance, loads",
    .example = "sluice inspect runs/quickstart",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<InspectFlags>();
      flags->checkpoint.declare(app);
      app.add_flag("--parameters", flags->text.parameters, "with a line per parameter");
      auto* recipe = app.add_flag("--recipe", flags->recipe,
                                  "print the recipe, every key written out, and nothing else");
      app.add_flag("--json", flags->json, "print one JSON object")->excludes(recipe);
      return [flags] { return run_inspection(*flags); };
    },
};

}  // namespace sluice
