#include "train/schema.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "train/cli/command.h"
#include "train/recipe.h"

namespace sluice {

const Command schema_command = {
    .name = "schema",
    .summary = "Print the JSON schema of recipes, for editors",
    .example = "sluice schema > recipes/schema.json",
    .declare = [](CLI::App&) -> std::function<int()> {
      return [] {
        Recipe recipe;
        recipe.model.all_sections = true;
        fmt::print("{}", write_json_schema(recipe, "Sluice recipe"));
        return 0;
      };
    },
};

}  // namespace sluice
