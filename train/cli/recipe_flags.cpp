#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <sstream>
#include <utility>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"
#include "train/cli/command.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

/// Folders that may hold the shipped recipes: beside an installed program, then in the source tree
/// it was built from.
std::vector<fs::path> recipe_folders() {
  std::error_code failed;
  const fs::path program = fs::read_symlink("/proc/self/exe", failed).parent_path();
  std::vector<fs::path> folders;
  std::istringstream list(SLUICE_RECIPE_DIRS);
  for (std::string folder; std::getline(list, folder, ':');) {
    const fs::path path = fs::path(folder).is_absolute() ? fs::path(folder) : program / folder;
    if (fs::is_directory(path, failed)) folders.push_back(fs::weakly_canonical(path, failed));
  }
  return folders;
}

}  // namespace

std::vector<fs::path> shipped_recipes() {
  for (const fs::path& folder : recipe_folders()) {
    std::vector<fs::path> recipes;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.path().extension() == ".yaml") recipes.push_back(entry.path());
    }
    // Those of a subfolder after those of the folder.
    std::ranges::sort(recipes, {}, [](const fs::path& recipe) {
      return std::pair(recipe.parent_path(), recipe.stem());
    });
    if (!recipes.empty()) return recipes;
  }
  return {};
}

fs::path find_shipped_recipe(std::string_view name) {
  for (const fs::path& recipe : shipped_recipes()) {
    if (recipe.stem() == name) return recipe;
  }
  return {};
}

void RecipeFlags::declare(CLI::App& app) {
  app.add_option("recipe", files,
                 "recipe files, later ones win; a shipped recipe may be given by name")
      ->required()
      ->type_name("RECIPE...");
  app.add_option("--set", sets,
                 "override a key of the recipe, as in --set train.steps=100; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

RecipeSource RecipeFlags::source() const {
  RecipeSource source;
  std::error_code failed;
  for (const std::string& file : files) {
    const fs::path shipped = fs::exists(file, failed) ? fs::path() : find_shipped_recipe(file);
    source.files.push_back(shipped.empty() ? file : shipped.string());
  }
  source.sets = sets;
  return source;
}

std::string RecipeFlags::run_name() const { return fs::path(files.back()).stem().string(); }

std::string check_whole_number(const std::string& text) {
  int64_t value = 0;
  const char* const last = text.data() + text.size();
  const auto [end, status] = std::from_chars(text.data(), last, value);
  if (status == std::errc{} && end == last && value >= 0) return {};
  return fmt::format("found \"{}\", allowed a whole number from 0 to 2^63 - 1", text);
}

}  // namespace sluice
