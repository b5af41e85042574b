// `sluice pack-experts CHECKPOINT|RUN --out FILE`: ternary experts as levels, five to a byte.

#include "train/transforms/pack_experts.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "autograd/support/file.h"
#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/format.h"
#include "train/output_file.h"

namespace sluice {
namespace {

struct PackFlags {
  CheckpointFlags checkpoint;
  std::string output;
};

int pack(const PackFlags& flags) {
  check_new_file("--out", flags.output);
  const auto found = flags.checkpoint.find();
  const PackedExperts packed = pack_experts(found.checkpoint, found.path.string());
  write_checkpoint(real_file_system(), flags.output, packed.checkpoint);
  fmt::print("{}: {} weights of ternary experts in {}, {:.2f} bits each; from step {}\n",
             flags.output, with_commas(packed.weights), in_bytes(static_cast<double>(packed.bytes)),
             8.0 * static_cast<double>(packed.bytes) / static_cast<double>(packed.weights),
             with_commas(packed.checkpoint.meta.step));
  return 0;
}

}  // namespace

const Command pack_experts_command = {
    .name = "pack-experts",
    .summary = "Store a model's ternary experts in 1.6 bits a weight (MoTE)",
    .example = "sluice pack-experts runs/upcycle_mote --out packed.h5",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<PackFlags>();
      flags->checkpoint.declare(app);
      app.add_option("--out", flags->output, "checkpoint to write")->required()->type_name("FILE");
      return [flags] { return pack(*flags); };
    },
};

}  // namespace sluice
