// `sluice merge-adapters CHECKPOINT|RUN --out FILE`: a model whose adapters became part of its matrices.

#include "train/transforms/merge_adapters.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "autograd/support/file.h"
#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/format.h"
#include "train/output_file.h"

namespace sluice {
namespace {

struct MergeFlags {
  CheckpointFlags checkpoint;
  std::string output;
};

int merge(const MergeFlags& flags) {
  check_new_file("--out", flags.output);
  const auto found = flags.checkpoint.find();
  const MergedModel merged = merge_adapters(found.checkpoint, found.path.string());
  write_checkpoint(real_file_system(), flags.output, merged.checkpoint);
  fmt::print("{}: {} merged into {}, from step {}\n", flags.output,
             counted(merged.adapters, "adapter"), counted(merged.matrices, "weight"),
             with_commas(merged.checkpoint.meta.step));
  return 0;
}

}  // namespace

const Command merge_adapters_command = {
    .name = "merge-adapters",
    .summary = "Fold a model's adapters into its matrices, where they are the same for every token",
    .example = "sluice merge-adapters runs/lora --out merged.h5",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<MergeFlags>();
      flags->checkpoint.declare(app);
      app.add_option("--out", flags->output, "checkpoint to write")->required()->type_name("FILE");
      return [flags] { return merge(*flags); };
    },
};

}  // namespace sluice
