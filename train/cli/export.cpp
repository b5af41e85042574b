// `sluice export CHECKPOINT|RUN --out DIR`: a trained model for other programs.

#include "train/interchange/export.h"

#include <CLI/CLI.hpp>
#include <array>
#include <memory>

#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/format.h"
#include "train/interchange/family.h"
#include "train/output_file.h"
#include "train/recipe.h"

namespace sluice {
namespace {

struct ExportFlags {
  CheckpointFlags checkpoint;
  ExportOptions options;
  std::string output;
  std::string format = "safetensors";
  std::string type = "f32";
  std::string max_file = "5 GiB";
};

constexpr std::array<StoredType, 4> kWritten = {StoredType::f32, StoredType::f16, StoredType::bf16,
                                                StoredType::q8_0};

int run_export(ExportFlags flags) {
  flags.options.output = without_last_slash(flags.output);
  const bool is_gguf = flags.format == "gguf";
  SLUICE_CHECK(ConfigError, is_gguf || flags.type != "q8_0",
               "--dtype: found q8_0, allowed f32, f16 or bf16 with --format safetensors");
  flags.options.format = is_gguf ? ExportFormat::gguf : ExportFormat::safetensors;
  for (const StoredType type : kWritten) {
    if (flags.type == name_of(type)) flags.options.type = type;
  }
  flags.options.max_file_bytes =
      with_context([] { return "--max-file"; }, [&] { return parse_memory(flags.max_file); });
  const auto found = flags.checkpoint.find();
  const ExportedModel model = export_model(found.checkpoint, found.path.string(), flags.options);
  for (const std::string& note : model.notes) print_note(note);
  fmt::print("{}: {} tensors in {} of a {} model, from step {}\n", flags.output,
             with_commas(model.tensors), flags.type, model.family,
             with_commas(found.checkpoint.meta.step));
  return 0;
}

}  // namespace

const Command export_command = {
    .name = "export",
    .summary = "Write a trained model as safetensors, for other programs",
    .example = "sluice export runs/quickstart --out quickstart-model --drop-selection-shift",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<ExportFlags>();
      flags->checkpoint.declare(app);
      app.add_option("--out", flags->output,
                     "folder to make (config.json, model.safetensors, tokenizer), or GGUF file")
          ->required()
          ->type_name("DIR|FILE.gguf");
      app.add_option("--format", flags->format,
                     "safetensors, or gguf (llama.cpp): a file instead of a folder, of Llama and "
                     "Mixtral alone")
          ->check(CLI::IsMember({"safetensors", "gguf"}))
          ->capture_default_str();
      app.add_option("--family", flags->options.family,
                     fmt::format("whose layers and names to take (none: the first of {} that can "
                                 "hold the model)",
                                 fmt::join(family_registry().names(), ", ")))
          ->type_name("NAME");
      app.add_option("--dtype", flags->type,
                     "how to store numbers: f32, or rounded f16 or bf16; in gguf also q8_0, where "
                     "vectors and routers stay f32")
          ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}))
          ->capture_default_str();
      app.add_option("--max-file", flags->max_file, "cut larger models into files of this size")
          ->type_name("SIZE")
          ->capture_default_str();
      app.add_flag("--drop-selection-shift", flags->options.drop_selection_shift,
                   "leave out how a balancing method shifts the choice of experts (loss_free_bias, "
                   "bip, ...), which only deepseek_v3 can hold");
      return [flags] { return run_export(*flags); };
    },
};

}  // namespace sluice
