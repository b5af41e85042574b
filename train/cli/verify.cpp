// `sluice verify resume RECIPE` and `sluice verify isolation RECIPE|CHECKPOINT|RUN`: status 0 when
// the promise holds, 1 when it does not.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/format.h"
#include "train/plan.h"
#include "train/verify_isolation.h"
#include "train/verify_resume.h"

namespace sluice {
namespace {

constexpr int kHolds = static_cast<int>(ExitStatus::success);
constexpr int kBroken = static_cast<int>(ExitStatus::failure);

// --- resume --------------------------------------------------------------------------------------

int run_resume(const RecipeFlags& flags, const VerifyResumeOptions& options) {
  const Recipe recipe = load_recipe(flags.source());
  use_threads(recipe);
  const ResumeVerdict verdict = verify_resume(recipe, options);
  fmt::print("{:<10}{:>8}{:>11}\n", "", "compared", "differing");
  for (const ComparedState& state : verdict.compared) {
    fmt::print("{:<10}{:>8}{:>11}\n", state.name, state.count, state.differing.size());
  }
  for (const ComparedState& state : verdict.compared) {
    if (!state.differing.empty()) {
      fmt::print("first difference in {}: {}\n", state.name, state.differing.front());
    }
  }
  fmt::print("{} steps, and {} + checkpoint + {} in a fresh build: {}\n", 2 * verdict.steps,
             verdict.steps, verdict.steps,
             verdict.is_identical() ? "identical, bit for bit" : "NOT identical");
  return verdict.is_identical() ? kHolds : kBroken;
}

// --- isolation -----------------------------------------------------------------------------------

struct IsolationFlags {
  std::string path;
  bool best = false;
  std::vector<std::string> sets;
};

bool is_recipe(const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  return extension == ".yaml" || extension == ".yml" ||
         (!std::filesystem::exists(path) && !find_shipped_recipe(path).empty());
}

void print_report(std::string_view mode, const IsolationReport& report) {
  fmt::print("{:<12}{}, {} changed in turn: {}\n", mode, counted(report.documents, "document"),
             counted(report.changes, "token"),
             report.is_isolated() ? "every other logit keeps its bits" : "logits differ");
  if (report.leaked_tokens + report.acausal_tokens > 0) {
    fmt::print("{:<12}{} tokens of other documents, {} before the change in its own\n", "",
               report.leaked_tokens, report.acausal_tokens);
  }
  if (report.worst) {
    const Leak& leak = *report.worst;
    fmt::print(
        "{:<12}largest: token {} of document {} moves by {:.3g} when token {} of document "
        "{} changes\n",
        "", leak.position, leak.document, leak.difference, leak.change.position,
        leak.change.document);
  }
  if (!report.mute.empty()) {
    fmt::print("{:<12}{} changes do not reach even their own token's logits\n", "",
               report.mute.size());
  }
}

int report(const IsolationSubject& subject) {
  const IsolationVerdict verdict = verify_isolation(subject);
  print_report("evaluation", verdict.evaluation);
  print_report("training", verdict.training);
  for (const std::string& sentence : verdict.declared) {
    fmt::print("{:<12}{}\n", "declared", sentence);
  }
  fmt::print("{}\n", !verdict.passes()                ? "documents are NOT isolated"
                     : verdict.training.is_isolated() ? "documents are isolated"
                                                      : "documents are isolated, but for what is "
                                                        "declared");
  return verdict.passes() ? kHolds : kBroken;
}

int verify_recipe(const IsolationFlags& flags) {
  RecipeFlags recipe_flags;
  recipe_flags.files = {flags.path};
  recipe_flags.sets = flags.sets;
  const Recipe recipe = load_recipe(recipe_flags.source());
  use_threads(recipe);
  Pool pool;
  const auto model = build_model(recipe, pool, planned_vocab_size(recipe));
  const auto routing = build_routing(recipe);
  return report({recipe, pool, *model, *routing, progress_of(recipe, {})});
}

int verify_checkpoint(const IsolationFlags& flags) {
  SLUICE_CHECK(ConfigError, flags.sets.empty(),
               "--set: {} is a checkpoint with a recipe of its own; give a recipe to change it",
               flags.path);
  const auto found = CheckpointFlags{.path = flags.path, .best = flags.best}.find();
  const TrainedModel trained = build_trained_model(found.checkpoint, found.path.string());
  use_threads(trained.recipe);
  return report({trained.recipe, *trained.pool, *trained.model, *trained.routing,
                 progress_of(trained.recipe, trained.meta)});
}

std::function<int()> declare_resume(CLI::App& app) {
  auto recipe = std::make_shared<RecipeFlags>();
  auto options = std::make_shared<VerifyResumeOptions>();
  recipe->declare(app);
  app.add_option("--steps", options->steps,
                 "steps before the checkpoint, and again after it (10, or half of a shorter run)")
      ->check(check_whole_number);
  app.footer("\nExample: sluice verify resume recipes/quickstart.yaml --steps 3");
  return [=] { return run_resume(*recipe, *options); };
}

std::function<int()> declare_isolation(CLI::App& app) {
  auto flags = std::make_shared<IsolationFlags>();
  app.add_option("model", flags->path,
                 "a recipe (checked with initial weights), a checkpoint or a run")
      ->required()
      ->type_name("RECIPE|CHECKPOINT|RUN");
  app.add_option("--set", flags->sets, "override a key of the recipe; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app.add_flag("--best", flags->best, "of a run, the checkpoint with the lowest held-out loss");
  app.footer("\nExample: sluice verify isolation recipes/quickstart.yaml");
  return [flags] {
    return is_recipe(flags->path) ? verify_recipe(*flags) : verify_checkpoint(*flags);
  };
}

}  // namespace

const Command verify_command = {
    .name = "verify",
    .summary = "Hold promises to the bit: a resumed run is the same, documents are isolated",
    .example = "sluice verify resume recipes/quickstart.yaml --steps 3",
    .declare = [](CLI::App& app) -> std::function<int()> {
      app.require_subcommand(1);
      CLI::App* resume = app.add_subcommand(
          "resume", "Train straight, and with a checkpoint in between: equal to the last bit?");
      CLI::App* isolation = app.add_subcommand(
          "isolation", "Change a token of one packed document: do others notice?");
      const auto run_resume_check = declare_resume(*resume);
      const auto run_isolation_check = declare_isolation(*isolation);
      return [=] { return resume->parsed() ? run_resume_check() : run_isolation_check(); };
    },
};

}  // namespace sluice
