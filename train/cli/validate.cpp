// `sluice validate`: the recipe's own rules, then checks that need the data and the machine.

#include <CLI/CLI.hpp>
#include <memory>

#include "train/cli/command.h"
#include "train/environment.h"
#include "train/format.h"
#include "train/plan.h"

namespace sluice {
namespace {

/// Numbered lines that pass or fail; a failed check stops those that build on it.
class Checklist {
 public:
  /// `check` returns what it found; an Error is the failure. Returns whether it passed.
  bool run(std::string_view title, const std::function<std::string()>& check) {
    ++number_;
    try {
      const std::string found = check();
      fmt::print("{}. ok    {}: {}\n", number_, title, found);
      return true;
    } catch (const ConfigError& error) {
      fail(title, error, ExitStatus::usage);
    } catch (const Error& error) {
      fail(title, error, ExitStatus::failure);
    }
    return false;
  }
  /// That of the run itself: of its first failure.
  [[nodiscard]] ExitStatus status() const { return status_; }

 private:
  void fail(std::string_view title, const Error& error, ExitStatus status) {
    fmt::print("{}. FAIL  {}: {}\n", number_, title, error.what());
    if (status_ == ExitStatus::success) status_ = status;
  }

  int number_ = 0;
  ExitStatus status_ = ExitStatus::success;
};

std::string check_tokenizer(const Dataset& data) {
  constexpr std::string_view kProbe =
      "To be,\n\tor not — 1 + 1 = 2; \xE2\x96\x81 \xF0\x9F\x90\x98  twice\r\n";
  const Tokenizer& tokenizer = *data.tokenizer;
  const std::string back = tokenizer.decode(tokenizer.encode(kProbe));
  SLUICE_CHECK(ConfigError, back == kProbe || !tokenizer.is_lossless(),
               "the probe text came back as \"{}\"", back);
  return fmt::format("{}, vocabulary {}, {}", tokenizer.kind(), tokenizer.vocab_size(),
                     back == kProbe ? "gives back every byte of a probe text"
                                    : "changes text (its own normalisation)");
}

std::string check_memory(const Plan& plan) {
  const Machine machine = describe_machine();
  const auto copy = static_cast<double>(plan.checkpoint_bytes);
  const auto needed = static_cast<double>(plan.peak.total());
  const auto there = static_cast<double>(machine.memory_bytes);
  SLUICE_CHECK(ConfigError, machine.memory_bytes == 0 || needed + copy < there,
               "a step needs {} of tensors and a checkpoint a copy of {}, the machine has {}; try "
               "train.micro_batch or train.recompute: all",
               in_bytes(needed), in_bytes(copy), in_bytes(there));
  return fmt::format("a step needs {} of tensors and a checkpoint a copy of {}, the machine has {}",
                     in_bytes(needed), in_bytes(copy), in_bytes(there));
}

/// As the run will do it: with the checkpoint's own tokenizer.
std::string check_initial_weights(const Recipe& recipe) {
  const std::optional<Checkpoint> initial = initial_checkpoint(recipe);
  const auto tokenizer =
      deserialize_tokenizer(initial->meta.tokenizer_kind, initial->meta.tokenizer);
  Pool pool;
  const auto model = build_model(recipe, pool, tokenizer->vocab_size());
  load_weights(*initial, *recipe.train.init_from, *model);
  return fmt::format("{} holds every parameter of the model", *recipe.train.init_from);
}

int validate(const RecipeFlags& flags) {
  const Recipe recipe = load_recipe(flags.source());
  fmt::print("recipe: every key is known and in range\n");
  Checklist list;
  std::optional<Dataset> data;
  const bool readable = list.run("data", [&] {
    data = load_dataset(recipe.data, static_cast<uint64_t>(recipe.seed));
    return fmt::format("{} training tokens, fingerprint {:016x}",
                       with_commas(data->num_train_tokens()), data->fingerprint);
  });
  if (readable) {
    list.run("tokenizer", [&] { return check_tokenizer(*data); });
    std::optional<Plan> plan;
    list.run("shapes", [&] {
      plan = make_plan(recipe, data->tokenizer->vocab_size(), data->num_train_tokens());
      return fmt::format("one step runs on shapes; {} parameters, {} active",
                         with_commas(plan->parameters.total), with_commas(plan->parameters.active));
    });
    if (plan) list.run("memory", [&] { return check_memory(*plan); });
    if (plan && recipe.train.init_from) {
      list.run("initial weights", [&] { return check_initial_weights(recipe); });
    }
  }
  return static_cast<int>(list.status());
}

}  // namespace

const Command validate_command = {
    .name = "validate",
    .summary = "Check a recipe, and that its run could start: data, tokenizer, shapes, memory",
    .example = "sluice validate recipes/quickstart.yaml",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<RecipeFlags>();
      flags->declare(app);
      return [flags] { return validate(*flags); };
    },
};

}  // namespace sluice
