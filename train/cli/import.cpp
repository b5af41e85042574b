// `sluice import FOLDER --out FILE.h5|DIR`: a model of another program as a checkpoint.

#include "train/interchange/import.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/format.h"
#include "train/output_file.h"

namespace sluice {
namespace {

struct ImportFlags {
  std::string folder;
  std::string output;
  std::string tokenizer;
};

int run_import(const ImportFlags& flags) {
  const ImportedModel model =
      import_model({.source = flags.folder, .output = without_last_slash(flags.output), .tokenizer = flags.tokenizer});
  for (const std::string& note : model.notes) print_note(note);
  fmt::print("{}: {} parameters of a {} model, pattern {}\n", model.checkpoint.string(),
             with_commas(model.parameters), model.family, model.recipe.model.pattern);
  fmt::print("its recipe trains on {}, which is yours to name\n",
             as_source(model.recipe.data.sources.front()).path);
  return 0;
}

}  // namespace

const Command import_command = {
    .name = "import",
    .summary = "Make a checkpoint of a model in safetensors or GGUF",
    .example = "sluice import quickstart-model --out quickstart-again.h5",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<ImportFlags>();
      app.add_option("folder", flags->folder,
                     "a folder with config.json, model.safetensors (or its parts and their index) "
                     "and a tokenizer, or a GGUF file")
          ->required()
          ->type_name("FOLDER|FILE.gguf");
      app.add_option("--out", flags->output,
                     "the checkpoint to make, or the folder of a run that starts from it")
          ->required()
          ->type_name("FILE.h5|DIR");
      app.add_option("--tokenizer", flags->tokenizer,
                     "its tokenizer, when the folder has none or several: a SentencePiece model, a "
                     "tokenizer.json, a llama2.c tokenizer.bin, or the word bytes")
          ->type_name("FILE");
      return [flags] { return run_import(*flags); };
    },
};

}  // namespace sluice
