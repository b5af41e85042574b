// `sluice transform FILE`: a trained model made smaller, as a run of its own; `--compare`: a table of what
// several methods cost.

#include "train/transforms/transform.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "autograd/support/file.h"
#include "autograd/support/parallel.h"
#include "train/cli/checkpoint_flags.h"
#include "train/cli/command.h"
#include "train/format.h"
#include "train/transforms/transform_table.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
constexpr RaiseError kRaise = raise_as<CheckpointError>;

struct TransformFlags {
  RecipeFlags recipe;
  std::vector<std::string> from;
  std::optional<std::string> out;
  bool compare = false;
};

std::string size_line(const ModelSize& size) {
  return fmt::format("{} parameters, {} active per token, {}", with_commas(size.total),
                     with_commas(size.active), in_bytes(static_cast<double>(size.bytes)));
}

void print_receipt(const TransformReceipt& receipt) {
  fmt::print("transformed  from {} by {}\n", receipt.from, receipt.method);
  fmt::print("before       {}\n", size_line(receipt.before));
  fmt::print("after        {}\n", size_line(receipt.after));
  fmt::print("calibration  {} tokens\n", with_commas(receipt.calibration_tokens));
  for (const TransformReceipt::Layer& layer : receipt.layers) {
    fmt::print("{:<12} experts {}\n", layer.path, kept_text(layer));
  }
  for (const std::string& note : receipt.notes) fmt::print("             {}\n", note);
  if (!receipt.parity) {
    fmt::print("parity       not measured: no text is held out\n");
    return;
  }
  const Parity& parity = *receipt.parity;
  fmt::print(
      "parity       {} held-out tokens: loss {:.4f} before, {:.4f} after, mean KL {:.3g} nats\n",
      with_commas(parity.tokens), parity.loss_before, parity.loss_after, parity.mean_divergence);
  fmt::print("             largest logit difference {:.3g}, {:.2g} of the largest logit\n",
             parity.largest_difference, parity.relative_difference());
}

void print_notes(const Transformation& transformation) {
  for (const std::string& note : transformation.notes()) print_note(note);
}

int make_one(const TransformConfig& config, const fs::path& folder) {
  SLUICE_CHECK(ConfigError, config.method.size() == 1 && config.seeds.size() == 1,
               "found {} and {}, a run takes one of each; --compare makes a table of all",
               counted(std::ssize(config.method), "method"),
               counted(std::ssize(config.seeds), "seed"));
  SLUICE_CHECK(ConfigError, !fs::exists(folder / "checkpoints"),
               "{}: holds a run already; give another folder with --out", folder.string());
  Transformation transformation(config);
  print_notes(transformation);
  const Transformed made = transformation.run(config.method.front(), config.seeds.front());
  write_transformed(made, folder);
  print_receipt(made.receipt);
  const std::string name = shell_word(folder.string());
  fmt::print("folder       {}\n", name);
  fmt::print("go on        sluice train {0}/recipe.yaml --out {0}   (or eval, generate, export)\n",
             name);
  return 0;
}

void try_all(const TransformConfig& config, TransformTable& table) {
  Transformation transformation(config);
  print_notes(transformation);
  for (const Tagged& method : config.method) {
    for (const int64_t seed : config.seeds) {
      const TransformReceipt receipt = transformation.run(method, seed).receipt;
      SLUICE_CHECK(ConfigError, receipt.parity.has_value(),
                   "--compare: the recipe of {} holds nothing out, so there is no loss to compare",
                   receipt.from);
      fmt::print("{}, {}, seed {}: loss {:.4f} before, {:.4f} after\n", config.from,
                 receipt.method, seed, receipt.parity->loss_before, receipt.parity->loss_after);
      std::fflush(stdout);
      table.add(receipt);
    }
  }
}

int make_table(TransformConfig& config, const std::vector<std::string>& models,
               const fs::path& folder) {
  TransformTable table;
  for (const std::string& model : models) {
    config.from = model;
    try_all(config, table);
  }
  create_folders(real_file_system(), folder, kRaise);
  const auto write = [&](const char* name, const std::string& text) {
    write_file_atomically(real_file_system(), folder / name, bytes_of(text), kRaise);
  };
  write("table.md", table.markdown());
  write("table.csv", table.csv());
  fmt::print("\n{}tables: {}, {}\n", table.markdown(), (folder / "table.md").string(),
             (folder / "table.csv").string());
  return 0;
}

RecipeSource source_of(const RecipeFlags& flags) {
  RecipeSource source{.files = {}, .sets = flags.sets};
  for (const std::string& file : flags.files) source.files.push_back(recipe_file(file).string());
  return source;
}

int transform(const TransformFlags& flags) {
  TransformConfig config;
  read_or_throw(config, load_documents(source_of(flags.recipe)));
  SLUICE_CHECK(ConfigError, !flags.out || !flags.out->empty(),
               "--out: found \"\", a folder is needed");
  set_num_threads(static_cast<int>(config.threads.value_or(num_processors())));
  const std::vector<std::string> models =
      flags.from.empty() ? std::vector{config.from} : flags.from;
  const fs::path folder =
      flags.out ? fs::path(*flags.out) : fs::path("runs") / flags.recipe.run_name();
  if (flags.compare) return make_table(config, models, folder);
  SLUICE_CHECK(ConfigError, models.size() == 1,
               "--from: found {}, a run takes one; --compare makes a table of all",
               counted(std::ssize(models), "model"));
  config.from = models.front();
  return make_one(config, folder);
}

}  // namespace

const Command transform_command = {
    .name = "transform",
    .summary =
        "Make a trained model smaller (prune, merge or slim its experts), and say what that cost",
    .example = "sluice transform recipes/transforms/prune_reap.yaml --out runs/pruned",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<TransformFlags>();
      flags->recipe.declare(app);
      app.add_option("--from", flags->from,
                     "the model instead of the file's; again and again, with --compare, for a "
                     "table over models")
          ->type_name("RUN")
          ->allow_extra_args(false);
      app.add_option("--out", flags->out,
                     "folder of the new run, or of the table (runs/<name of the file>)")
          ->type_name("DIR");
      app.add_flag("--compare", flags->compare,
                   "try every method with every seed and write one table instead of a run");
      return [flags] { return transform(*flags); };
    },
};

}  // namespace sluice
