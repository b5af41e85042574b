#include <CLI/CLI.hpp>
#include <memory>

#include "train/build.h"
#include "train/cli/command.h"
#include "train/format.h"

namespace sluice {
namespace {

void print_sizes(std::string_view title, const std::vector<DomainSize>& sizes) {
  fmt::print("{}\n", title);
  for (const DomainSize& size : sizes) {
    fmt::print("  {:<16}{:>10} documents {:>14} tokens {:>12}\n", size.domain,
               with_commas(size.documents), with_commas(size.tokens),
               in_bytes(static_cast<double>(size.bytes)));
  }
}

int prepare(Recipe recipe, const std::string& cache) {
  if (!cache.empty()) recipe.data.cache = std::filesystem::absolute(cache).string();
  const Dataset data = load_dataset(recipe.data, static_cast<uint64_t>(recipe.seed));
  fmt::print("tokenizer  {}, vocabulary {}\n", data.tokenizer->kind(),
             with_commas(data.tokenizer->vocab_size()));
  print_sizes("training", data.train_sizes());
  print_sizes("held out", data.held_out_sizes());
  fmt::print("fingerprint {:016x}\n", data.fingerprint);
  if (recipe.data.cache) {
    fmt::print("encoded text kept in {}\n", *recipe.data.cache);
  } else {
    fmt::print(
        "nothing kept: give --cache DIR here and data.cache in the recipe to encode only once\n");
  }
  return 0;
}

}  // namespace

const Command prepare_command = {
    .name = "prepare",
    .summary = "Read and encode a recipe's data, and keep the result for later runs",
    .example = "sluice prepare recipes/quickstart.yaml --cache runs/cache",
    .declare = [](CLI::App& app) -> std::function<int()> {
      struct Flags {
        RecipeFlags recipe;
        std::string cache;
      };
      auto flags = std::make_shared<Flags>();
      flags->recipe.declare(app);
      app.add_option("--cache", flags->cache,
                     "where to keep the encoded text (data.cache of the recipe)")
          ->type_name("DIR");
      return [flags] { return prepare(load_recipe(flags->recipe.source()), flags->cache); };
    },
};

}  // namespace sluice
