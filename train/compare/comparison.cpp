#include "train/compare/comparison.h"

#include <algorithm>
#include <map>

#include "autograd/support/error.h"
#include "train/compare/cases.h"
#include "train/compare/dense_twin.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

/// A path as a person would type it: from the current folder when it lies below it.
std::string display_path(const fs::path& path) {
  std::error_code failed;
  const fs::path near = fs::proximate(path, failed);
  return failed || near.empty() || *near.begin() == ".." ? path.string() : near.string();
}

/// What is wrong with the cells, each problem once, with the cells that have it unless all do.
class CellProblems {
 public:
  void add(const std::string& cell, const std::string& problem) {
    if (!cells_with_.contains(problem)) order_.push_back(problem);
    std::vector<std::string>& cells = cells_with_[problem];
    if (cells.empty() || cells.back() != cell) cells.push_back(cell);
  }
  /// Behind `others`.
  void throw_if_any(const Diagnostics& others, size_t num_cells) const {
    std::string text = others.to_string();
    for (const std::string& problem : order_) {
      const std::vector<std::string>& cells = cells_with_.at(problem);
      if (!text.empty()) text += '\n';
      text += cells.size() >= num_cells
                  ? problem
                  : fmt::format("{} (in {})", problem, fmt::join(cells, ", "));
    }
    SLUICE_CHECK(ConfigError, text.empty(), "{}", text);
  }

 private:
  std::vector<std::string> order_;
  std::map<std::string, std::vector<std::string>> cells_with_;
};

struct Reading {
  const ComparisonConfig& config;
  YamlDocument base;
  CellProblems problems;
};

void apply_case(YamlDocument& document, const ComparisonCase& what) {
  for (const ComparisonCase::Setting& setting : what.settings) {
    apply_setting(document, setting.key, setting.value, setting.where);
  }
}

/// Reports text that is not there, before hours are spent on what has it. Whether all is there.
bool check_sources(Reading& reading, const ComparisonCell& cell) {
  bool is_there = true;
  const DataConfig& data = cell.recipe.data;
  for (const SourceConfigs* sources : {&data.sources, &data.held_out.sources}) {
    for (const auto& source : *sources) {
      try {
        (void)make_source(as_source(source));
      } catch (const ConfigError& error) {
        is_there = false;
        reading.problems.add(cell.name(), error.what());
      }
    }
  }
  return is_there;
}

/// Reads and plans the recipe of `cell`; false when something is wrong with it.
bool finish_cell(Reading& reading, const YamlDocument& document, ComparisonCell& cell) {
  const Diagnostics found = read_into(cell.recipe, document);
  for (const Diagnostic& problem : found.items()) {
    reading.problems.add(cell.name(), problem.to_string());
  }
  if (!found.empty()) return false;
  if (reading.config.budget) cell.recipe.train.steps = *reading.config.budget;
  cell.recipe.seed = reading.config.seeds.front();
  const bool has_text = check_sources(reading, cell);
  try {
    cell.plan = make_plan(cell.recipe, planned_vocab_size(cell.recipe), 0);
    return true;
  } catch (const ConfigError& error) {
    if (has_text) reading.problems.add(cell.name(), error.what());
    return false;
  }
}

std::optional<ComparisonCell> make_twin(Reading& reading, const YamlDocument& document,
                                        const ComparisonCell& of) {
  ComparisonCell twin{.model = of.model, .variation = std::string(kDenseTwin)};
  try {
    DenseTwin derived = derive_dense_twin(document, of.recipe, of.plan.parameters.active,
                                          planned_vocab_size(of.recipe));
    twin.note = derived.describe();
    if (finish_cell(reading, derived.document, twin)) return twin;
  } catch (const ConfigError& error) {
    reading.problems.add(twin.name(), error.what());
  }
  return std::nullopt;
}

void add_cells(Reading& reading, const ComparisonCase& model,
               const std::vector<ComparisonCase>& variations, Comparison& comparison) {
  YamlDocument of_model = reading.base;
  apply_case(of_model, model);
  std::optional<size_t> first;
  for (const ComparisonCase& variation : variations) {
    ComparisonCell cell{.model = model.name, .variation = variation.name};
    YamlDocument document = of_model;
    apply_case(document, variation);
    const bool sound = finish_cell(reading, document, cell);
    if (sound && !first) first = comparison.cells.size();
    comparison.cells.push_back(std::move(cell));
  }
  if (!reading.config.dense_twin || !first) return;
  const ComparisonCell& reference = comparison.cells[*first];
  if (!reference.recipe.has_experts()) {
    comparison.notes.push_back(
        fmt::format("{} has no expert layers, so it has no dense twin", reference.name()));
  } else if (auto twin = make_twin(reading, of_model, reference)) {
    comparison.notes.push_back(fmt::format("{}: {}", twin->name(), twin->note));
    comparison.cells.push_back(std::move(*twin));
  }
}

bool looks_like_recipe(const YamlDocument& document) {
  const auto has = [&](std::string_view key) { return document.root.find(key) != nullptr; };
  return !document.is_broken && !has("base") && (has("model") || has("data"));
}

}  // namespace

void ComparisonConfig::fields(FieldVisitor& v) {
  v.path({.key = "base", .doc = "the recipe that everything varies", .required = true}, base);
  v.integers({"seeds", "each cell is trained once with each"}, seeds, {.min = 0});
  v.optional_duration({"budget",
                       "length of each run, in steps or tokens, in place of the "
                       "recipe's train.steps"},
                      budget, "recipe");
  v.boolean({"dense_twin", "also train each model dense, with as many parameters as a token uses"},
            dense_twin);
  v.boolean({"keep_checkpoints", "keep the checkpoints of finished runs"}, keep_checkpoints);
}

std::string ComparisonConfig::check() const {
  if (seeds.empty()) return "seeds: found none, at least one is needed";
  std::vector<int64_t> sorted = seeds;
  std::ranges::sort(sorted);
  const auto twice = std::ranges::adjacent_find(sorted);
  if (twice != sorted.end()) return fmt::format("seeds: {} stands there twice", *twice);
  const bool is_length =
      !budget || budget->unit == DurationUnit::steps || budget->unit == DurationUnit::tokens;
  if (!is_length || (budget && budget->count <= 0)) {
    return fmt::format("budget: found {}, allowed recipe or a positive number of steps or tokens",
                       budget->to_string());
  }
  return {};
}

std::string ComparisonCell::name() const {
  return model.empty() ? variation : fmt::format("{}-{}", model, variation);
}

std::string ComparisonCell::run_name(int64_t seed) const {
  return fmt::format("{}-s{}", name(), seed);
}

Recipe ComparisonCell::recipe_of(int64_t seed) const {
  Recipe result = recipe;
  result.seed = seed;
  return result;
}

int64_t ComparisonCell::tokens() const { return plan.sizes.steps * plan.sizes.tokens_per_step; }

double ComparisonCell::flops() const {
  return plan.flops_per_token() * static_cast<double>(tokens());
}

Comparison load_comparison(const fs::path& file) {
  YamlDocument document = load_documents({{file.string()}, {}});
  SLUICE_CHECK(ConfigError, !looks_like_recipe(document),
               "{}: is a recipe, not a comparison; `sluice train` runs it, and a comparison names "
               "it as its base",
               file.string());
  Comparison comparison{.name = file.stem().string()};
  ComparisonCases cases;
  if (!document.is_broken) cases = take_cases(document);
  Diagnostics problems = read_into(comparison.config, document);
  if (comparison.config.base.empty() || comparison.config.seeds.empty()) problems.throw_if_any();
  if (std::error_code failed; !fs::exists(comparison.config.base, failed)) {
    problems.add(document.root.find("base")->value.where, "base",
                 fmt::format("{}: no such file", display_path(comparison.config.base)));
    problems.throw_if_any();
  }

  Reading reading{.config = comparison.config,
                  .base = load_documents({{display_path(comparison.config.base)}, {}})};
  // What the base alone gets wrong, every cell would repeat.
  problems.add(reading.base.problems);
  if (reading.base.is_broken) problems.throw_if_any();
  reading.base.problems = {};
  apply_case(reading.base, cases.common);
  for (const ComparisonCase& model : cases.models) {
    add_cells(reading, model, cases.variations, comparison);
  }
  reading.problems.throw_if_any(problems, cases.models.size() * cases.variations.size());
  return comparison;
}

bool is_comparison_file(const fs::path& file) {
  const YamlDocument document = load_documents({{file.string()}, {}});
  return !document.is_broken && document.root.find("base") != nullptr;
}

}  // namespace sluice
