// `sluice extract-adapters CHECKPOINT|RUN --ranks R --out FILE`: experts as low-rank changes of one of them.

#include "train/transforms/extract_adapters.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "autograd/support/file.h"
#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/format.h"
#include "train/output_file.h"

namespace sluice {
namespace {

struct ExtractFlags {
  CheckpointFlags checkpoint;
  ExtractOptions options;
  std::string output;
};

int extract(const ExtractFlags& flags) {
  check_new_file("--out", flags.output);
  const auto found = flags.checkpoint.find();
  const ExtractedModel model =
      extract_adapters(found.checkpoint, found.path.string(), flags.options);
  write_checkpoint(real_file_system(), flags.output, model.checkpoint);
  fmt::print("{}: {} parameters instead of {}; of what sets experts apart, {:.3g} is left out\n",
             flags.output, with_commas(model.parameters_after),
             with_commas(model.parameters_before), model.relative_error);
  return 0;
}

}  // namespace

const Command extract_adapters_command = {
    .name = "extract-adapters",
    .summary = "Turn a model's experts into low-rank changes of one public expert (FlexMoRE)",
    .example = "sluice extract-adapters runs/quickstart --ranks 16 --out low_rank.h5",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<ExtractFlags>();
      flags->checkpoint.declare(app);
      app.add_option("--ranks", flags->options.ranks,
                     "a rank for each expert, or one for all but the public one")
          ->required()
          ->delimiter(',')
          ->type_name("R,R,...");
      app.add_option("--public", flags->options.public_expert,
                     "the expert that stays as it is and stands in for the others")
          ->type_name("EXPERT")
          ->capture_default_str();
      app.add_option("--out", flags->output, "checkpoint to write")->required()->type_name("FILE");
      return [flags] { return extract(*flags); };
    },
};

}  // namespace sluice
