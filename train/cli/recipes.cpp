// `sluice recipes ls | cat NAME | cp NAME [FILE]`: the shipped recipes, and the methods that a recipe
// can name.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <regex>
#include <span>
#include <utility>
#include <vector>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"
#include "balance/make.h"
#include "layers/adapters.h"
#include "layers/depth.h"
#include "layers/experts.h"
#include "layers/router.h"
#include "train/cli/command.h"
#include "train/compare/comparison.h"
#include "train/recipe.h"
#include "train/transforms/transform.h"
#include "train/yaml_reader.h"
#include "train/yaml_writer.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  SLUICE_CHECK(ConfigError, in.good(), "{}: cannot be read", file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

/// First comment line: what the recipe is for.
std::string headline(const fs::path& file) {
  const std::string text = read_text(file);
  const size_t start = text.find_first_not_of("# ");
  if (text.empty() || text[0] != '#' || start == std::string::npos) return {};
  return text.substr(start, text.find('\n') - start);
}

/// A table of names and what they are.
struct Listing {
  std::string title;
  std::vector<std::pair<std::string, std::string>> lines;
};

/// One listing per folder of recipes.
std::vector<Listing> recipe_listings() {
  std::vector<Listing> listings;
  fs::path folder;
  for (const fs::path& recipe : shipped_recipes()) {
    if (listings.empty() || recipe.parent_path() != folder) {
      folder = recipe.parent_path();
      const std::string of = listings.empty() ? "" : ": " + folder.filename().string();
      listings.push_back({"recipes" + of, {}});
    }
    listings.back().lines.emplace_back(recipe.stem().string(), headline(recipe));
  }
  return listings;
}

/// The registry's own words, which end in the paper.
Listing method_listing(std::string title, std::span<const Choice> choices) {
  Listing listing{std::move(title), {}};
  for (const Choice& choice : choices) listing.lines.emplace_back(choice.name, choice.doc);
  return listing;
}

/// Kinds of layers, by their letter in a pattern where they have one.
Listing layer_listing() {
  Listing listing{"layers, by their letter of model.pattern, or {type: ...} in model.variants", {}};
  const auto add = [&](const auto& entry) {
    const std::string letter = entry.symbol == kNoSymbol ? "" : fmt::format("{} ", entry.symbol);
    listing.lines.emplace_back(letter + std::string(entry.name), entry.doc);
  };
  for (const MixerEntry* entry : mixer_table()) add(*entry);
  for (const FeedForwardEntry* entry : feed_forward_table()) add(*entry);
  return listing;
}

int list_recipes() {
  std::vector<Listing> listings = recipe_listings();
  listings.push_back(layer_listing());
  listings.push_back(
      method_listing("groups [...] of a pattern, model.depth: {type: ...}", depth_choices()));
  listings.push_back(method_listing("experts, model.experts.form: {type: ...}", experts_choices()));
  listings.push_back(
      method_listing("adapters, model.adapters: {name: {type: ...}}", adapter_choices()));
  listings.push_back(method_listing("balancing methods, balance: {type: ...}", balance_choices()));
  listings.push_back(
      method_listing("routers, model.experts.router: {type: ...}", router_choices()));
  listings.push_back(method_listing("transformations, method: {type: ...}", transform_choices()));
  listings.push_back(method_listing("what an expert is worth, method.criterion: {type: ...}",
                                    criterion_choices()));
  size_t width = 0;
  for (const Listing& listing : listings) {
    for (const auto& [name, text] : listing.lines) width = std::max(width, name.size());
  }
  for (const Listing& listing : listings) {
    fmt::print("{}{}\n", &listing == listings.data() ? "" : "\n", listing.title);
    for (const auto& [name, text] : listing.lines) fmt::print("  {:{}}  {}\n", name, width, text);
  }
  return 0;
}

/// The text of a comparison or a transformation, its paths absolute.
std::string with_absolute_paths(const std::string& text, const fs::path& folder) {
  static const std::regex path_value(R"(\b(base|path|cache|from): *([^\s,}#]+))");
  std::string result;
  auto rest = text.cbegin();
  for (std::sregex_iterator found(text.begin(), text.end(), path_value), end; found != end;
       ++found) {
    result.append(rest, (*found)[2].first);
    result += fs::weakly_canonical(folder / (*found)[2].str()).string();
    rest = (*found)[2].second;
  }
  return result.append(rest, text.cend());
}

std::string copy_of(const fs::path& source) {
  const std::string name = source.stem().string();
  if (is_comparison_file(source)) {
    return fmt::format("# Copy of the shipped comparison {}.\n{}", name,
                       with_absolute_paths(read_text(source), source.parent_path()));
  }
  if (is_transform_file(source)) {
    return fmt::format("# Copy of the shipped transformation {}.\n{}", name,
                       with_absolute_paths(read_text(source), source.parent_path()));
  }
  return fmt::format("# Copy of the shipped recipe {}, every key written out.\n{}", name,
                     resolved_text(load_recipe({{source.string()}, {}})));
}

std::string resolved(const fs::path& source) {
  SLUICE_CHECK(ConfigError, !is_comparison_file(source),
               "{}: a comparison has no resolved form; `sluice compare {} --list` prints its runs",
               source.stem().string(), source.stem().string());
  if (is_transform_file(source)) {
    TransformConfig config;
    read_or_throw(config, load_documents({{source.string()}, {}}));
    return write_yaml(config);
  }
  return resolved_text(load_recipe({{source.string()}, {}}));
}

/// The copy must find its data wherever it lies, so paths become absolute.
int copy_recipe(const std::string& name, const std::string& target) {
  const fs::path source = require_shipped_recipe(name);
  fs::path file = target.empty() ? source.filename() : fs::path(target);
  if (fs::is_directory(file)) file /= source.filename();
  SLUICE_CHECK(ConfigError, !fs::exists(file), "{}: exists; give another name", file.string());
  std::ofstream out(file, std::ios::binary);
  out << copy_of(source);
  out.flush();
  SLUICE_CHECK(ConfigError, out.good(), "{}: cannot be written", file.string());
  fmt::print("{}\n", file.string());
  return 0;
}

}  // namespace

const Command recipes_command = {
    .name = "recipes",
    .summary = "List, print or copy the shipped recipes",
    .example = "sluice recipes ls",
    .declare = [](CLI::App& app) -> std::function<int()> {
      struct Flags {
        std::string name;
        std::string target;
        bool resolved = false;
      };
      auto flags = std::make_shared<Flags>();
      app.require_subcommand(1);
      CLI::App* list =
          app.add_subcommand("ls", "One line per shipped recipe, balancing method and router");
      CLI::App* cat = app.add_subcommand("cat", "Print a recipe");
      cat->add_option("name", flags->name, "name of a shipped recipe")->required();
      cat->add_flag("--resolved", flags->resolved, "with every key and its default");
      CLI::App* copy = app.add_subcommand("cp", "Copy a recipe, ready to be edited");
      copy->add_option("name", flags->name, "name of a shipped recipe")->required();
      copy->add_option("file", flags->target, "where to (the name in the current folder)");
      return [=] {
        if (list->parsed()) return list_recipes();
        if (copy->parsed()) return copy_recipe(flags->name, flags->target);
        const fs::path source = require_shipped_recipe(flags->name);
        fmt::print("{}", flags->resolved ? resolved(source) : read_text(source));
        return 0;
      };
    },
};

}  // namespace sluice
