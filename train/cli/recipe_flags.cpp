#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"
#include "train/cli/command.h"
#include "train/compare/comparison.h"
#include "train/transforms/transform.h"

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
    const fs::path in_folder = recipe.parent_path().filename() / recipe.stem();
    if (recipe.stem() == name || in_folder == name) return recipe;
  }
  return {};
}

fs::path require_shipped_recipe(const std::string& name) {
  const fs::path found = find_shipped_recipe(name);
  if (!found.empty()) return found;
  std::vector<std::string> names;
  for (const fs::path& recipe : shipped_recipes()) names.push_back(recipe.stem().string());
  const std::vector<std::string_view> views(names.begin(), names.end());
  throw ConfigError(unknown_name("recipe", name, views));
}

fs::path recipe_file(const std::string& name) {
  std::error_code failed;
  const fs::path path(name);
  if (fs::exists(path, failed)) return path;
  const bool is_name = !path.has_extension() && !path.has_parent_path() && !path.empty();
  if (is_name) return require_shipped_recipe(name);
  const fs::path shipped = find_shipped_recipe(name);
  return shipped.empty() ? path : shipped;
}

void RecipeFlags::declare(CLI::App& app) {
  app.add_option("recipe", files,
                 "recipe files, later ones win; a shipped recipe may be given by name")
      ->required()
      ->type_name("RECIPE...");
  app.add_option(
         "--set", sets,
         "override a key of the recipe, as in --set train.steps=100, or take it away, as in --set "
         "data.held_out=~; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

RecipeSource RecipeFlags::source() const {
  RecipeSource source;
  for (const std::string& file : files) {
    source.files.push_back(recipe_file(file).string());
    SLUICE_CHECK(ConfigError, !is_comparison_file(source.files.back()),
                 "{}: is a comparison, not a recipe; `sluice compare {}` runs it", file, file);
    SLUICE_CHECK(ConfigError, !is_transform_file(source.files.back()),
                 "{}: is a transformation, not a recipe; `sluice transform {}` runs it", file,
                 file);
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
