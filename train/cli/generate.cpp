// `sluice generate CHECKPOINT|RUN`: stdout carries the text and nothing else.

#include "train/generate.h"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

#include "data/files.h"
#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"

namespace sluice {
namespace {

struct GenerateFlags {
  CheckpointFlags checkpoint;
  std::string prompt;
  std::string prompt_file;
  bool hide_prompt = false;
  bool ignore_eos = false;
  WeightStorage weights = WeightStorage::f32;
  std::string without_experts;
  int64_t samples = 1;
  GenerateOptions options;
};

/// Writes text as it comes, and remembers whether the line is open.
class TextOutput {
 public:
  void write(std::string_view text) {
    if (text.empty()) return;
    const bool written =
        std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
    SLUICE_CHECK(DataError, written, "standard output: cannot write: {}",
                 std::generic_category().message(errno));
    ends_with_line_break_ = text.back() == '\n';
  }
  void end_line() {
    if (!ends_with_line_break_) write("\n");
  }

 private:
  bool ends_with_line_break_ = true;
};

int run_generation(GenerateFlags flags) {
  SLUICE_CHECK(ConfigError, flags.samples >= 1, "--samples: found {}, allowed 1 or more",
               flags.samples);
  auto found = flags.checkpoint.find();
  found.checkpoint =
      without_experts(std::move(found.checkpoint), found.path.string(), flags.without_experts);
  TrainedModel trained = build_trained_model(found.checkpoint, found.path.string(), flags.weights);
  found.checkpoint.state.clear();  // a second copy of the weights, and more
  use_threads(trained.recipe);
  if (!flags.prompt_file.empty()) flags.prompt = read_input_file(flags.prompt_file);
  const auto prompt = encode_prompt(*trained.tokenizer, flags.prompt);
  if (trained.tokenizer->eos_id() && !flags.ignore_eos) {
    flags.options.stop_tokens.push_back(*trained.tokenizer->eos_id());
  }
  check_generation(trained, prompt, flags.options);
  bool context_is_full = false;
  TextOutput output;
  for (int64_t i = 0; i < flags.samples; ++i) {
    if (i > 0) output.write("<|endoftext|>\n");
    flags.options.sample = static_cast<uint64_t>(i);
    if (!flags.hide_prompt) output.write(flags.prompt);
    const Generation result = generate(trained, prompt, flags.options,
                                       [&](std::string_view text) { output.write(text); });
    output.end_line();
    context_is_full = context_is_full || result.end == GenerationEnd::context_full;
  }
  if (context_is_full) {
    print_note(fmt::format("stopped before {} tokens: with the prompt, the model reads {}",
                           flags.options.max_tokens, *max_context(trained.recipe.model)));
  }
  return 0;
}

}  // namespace

const Command generate_command = {
    .name = "generate",
    .summary = "Write text with a trained model",
    .example = "sluice generate runs/quickstart --prompt \"The \" --tokens 100 --temperature 0.8",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<GenerateFlags>();
      GenerateOptions& options = flags->options;
      flags->checkpoint.declare(app);
      declare_weights(app, flags->weights);
      declare_left_out(app, flags->without_experts);
      auto* prompt = app.add_option("--prompt", flags->prompt,
                                    "text to go on from (none: the start of a document)");
      app.add_option("--prompt-file", flags->prompt_file, "file to read it from, as it is")
          ->type_name("FILE")
          ->excludes(prompt);
      app.add_option("--tokens", options.max_tokens, "tokens to write at most")
          ->check(check_whole_number)
          ->capture_default_str();
      app.add_option("--temperature", options.sampling.temperature,
                     "divides the logits; 0 always takes the likeliest token")
          ->capture_default_str();
      app.add_option("--top-k", options.sampling.top_k, "draw from the K likeliest tokens only")
          ->type_name("K")
          ->check(check_whole_number);
      app.add_option("--top-p", options.sampling.top_p,
                     "draw from the fewest tokens that have this probability together")
          ->capture_default_str();
      app.add_option("--domain", options.domain,
                     "domain of the text, for a model that goes by domains (none: the first that "
                     "the model was trained on)")
          ->type_name("NAME");
      app.add_option("--seed", options.seed, "equal seeds give equal text")
          ->check(check_whole_number)
          ->capture_default_str();
      app.add_option("--samples", flags->samples,
                     "texts to write, with a line <|endoftext|> between them")
          ->check(check_whole_number)
          ->capture_default_str();
      app.add_option("--stop", options.stop_texts,
                     "text that ends the output and is left out of it; may be repeated")
          ->type_name("TEXT")
          ->allow_extra_args(false);
      app.add_option("--stop-token", options.stop_tokens,
                     "number of a token that does the same; may be repeated")
          ->type_name("ID")
          ->allow_extra_args(false);
      app.add_flag("--ignore-eos", flags->ignore_eos,
                   "go on behind the token that ends a document");
      app.add_flag("--hide-prompt", flags->hide_prompt, "write only what the model adds");
      return [flags] { return run_generation(*flags); };
    },
};

}  // namespace sluice
