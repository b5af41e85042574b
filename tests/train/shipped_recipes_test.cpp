// Every shipped recipe can be read, planned and run; the committed schema is the one that the
// fields give.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "layers/ffns/moe.h"
#include "layers/router.h"
#include "tests/support/scratch_folder.h"
#include "train/compare/comparison.h"
#include "train/plan.h"
#include "train/run.h"
#include "train/schema.h"
#include "train/transforms/transform.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

enum class Kind : uint8_t { recipe, comparison, transformation };

Kind kind_of(const fs::path& file) {
  if (is_comparison_file(file)) return Kind::comparison;
  return is_transform_file(file) ? Kind::transformation : Kind::recipe;
}

std::vector<fs::path> shipped(Kind kind) {
  std::vector<fs::path> files;
  for (const auto& entry :
       fs::recursive_directory_iterator(fs::path(SLUICE_SOURCE_DIR) / "recipes")) {
    const bool is_yaml = entry.path().extension() == ".yaml";
    if (is_yaml && kind_of(entry.path()) == kind) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string text_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<fs::path> recipes() { return shipped(Kind::recipe); }
std::vector<fs::path> comparisons() { return shipped(Kind::comparison); }
std::vector<fs::path> transformations() { return shipped(Kind::transformation); }

class ShippedRecipe : public ::testing::TestWithParam<fs::path> {};

TEST_P(ShippedRecipe, OpensWithTheCommandsThatRunIt) {
  const std::string text = text_of(GetParam());
  EXPECT_EQ(text.substr(0, 2), "# ");
  const std::string place = fs::relative(GetParam(), SLUICE_SOURCE_DIR).string();
  EXPECT_NE(text.find("sluice train " + place), std::string::npos);
}

/// Little of a recipe's text: bytes instead of a trained tokenizer, short sequences, two steps.
const std::vector<std::string> kShort = {
    "data.tokenizer={type: bytes}", "data.sequence_length=64", "train.global_batch=128 tokens",
    "train.micro_batch=auto",       "train.steps=2",           "model.vocab_size=auto"};

TEST_P(ShippedRecipe, RunsTwoStepsOfItsModelOnItsText) {
  std::vector<std::string> sets = kShort;
  // A longer first part without experts, and a dense run that is not there, are not for two steps.
  const std::string text = text_of(GetParam());
  if (text.find("diversify:") != std::string::npos) {
    sets.emplace_back("model.experts.diversify=none");
  }
  if (text.find("\nupcycle:") != std::string::npos) sets.emplace_back("upcycle=~");
  if (text.find("init_from:") != std::string::npos) sets.emplace_back("train.init_from=~");
  const Recipe recipe = load_recipe({{GetParam().string()}, sets});
  SingleRank communicator;
  sluice::Run run(recipe, communicator);
  while (!run.finished()) {
    const StepResult result = run.step();
    EXPECT_TRUE(result.applied) << result.problem;
    EXPECT_NEAR(result.loss, std::log(257.0), 1.0);
  }
}

/// The runs that the upcycling recipes begin with, a step long each, in a folder.
class UpcyclingRecipes {
 public:
  /// The checkpoint of a recipe after one step.
  std::string run(const std::string& name, const std::vector<std::string>& sets = {}) {
    sluice::Run run = open(name, sets);
    (void)run.step();
    const std::string path = (folder_ / (fs::path(name).filename().string() + ".h5")).string();
    write_checkpoint(real_file_system(), path, run.checkpoint(std::nullopt));
    return path;
  }
  /// How far an upcycling moved the logits.
  double moved(const std::string& name, const std::vector<std::string>& sets) {
    sluice::Run run = open("upcycle_" + name, sets);
    EXPECT_TRUE(run.upcycling() && run.upcycling()->parity) << name;
    const double moved = run.upcycling()->parity->relative_difference();
    EXPECT_TRUE(run.step().applied) << name;
    return moved;
  }

 private:
  sluice::Run open(const std::string& name, std::vector<std::string> sets) {
    sets.insert(sets.begin(), kShort.begin(), kShort.end());
    sets.emplace_back("train.evaluate.max_tokens=256");
    const fs::path file = fs::path(SLUICE_SOURCE_DIR) / "recipes" / (name + ".yaml");
    return sluice::Run(load_recipe({{file.string()}, sets}), communicator_);
  }

  testing::ScratchFolder folder_;
  SingleRank communicator_;
};

TEST(ShippedRecipes, UpcycleTheDenseModelBesideThem) {
  UpcyclingRecipes recipes;
  const std::string dense = "upcycle.from=" + recipes.run("upcycle_dense");
  for (const std::string name : {"copy", "virtual_groups", "mote", "flexolmo_owner"}) {
    EXPECT_LE(recipes.moved(name, {dense}), 1e-5) << name;
  }
}

TEST(ShippedRecipes, UpcycleTheDenseModelWithChanges) {
  UpcyclingRecipes recipes;
  const std::string dense = "upcycle.from=" + recipes.run("upcycle_dense");
  for (const std::string name : {"drop", "split", "evomoe"}) {
    EXPECT_GT(recipes.moved(name, {dense}), 1e-3) << name;
  }
}

TEST(ShippedRecipes, UpcycleTheDenseModelByWhatItsNeuronsDo) {
  UpcyclingRecipes recipes;
  const std::string dense = "upcycle.from=" + recipes.run("upcycle_dense");
  const std::string small = "upcycle.scheme.measured_tokens=128";
  EXPECT_GT(recipes.moved("sharing", {dense, small, "upcycle.calibrate=128"}), 1e-3);
}

TEST(ShippedRecipes, UpcycleSeveralModels) {
  UpcyclingRecipes recipes;
  const std::string file = recipes.run("upcycle_dense");
  const std::string dense = "upcycle.from=" + file;
  const std::string twice = fmt::format("upcycle.branches=[{{from: {0}}}, {{from: {0}}}]", file);
  // Branches that are the seed itself leave its function, but where chunks are routed beside the whole.
  for (const std::string name : {"btx", "bam", "prompts"}) {
    EXPECT_LE(recipes.moved(name, {dense, twice}), 1e-5) << name;
  }
  EXPECT_GT(recipes.moved("innovator", {dense, twice}), 1e-3);
}

TEST(ShippedRecipes, PutOwnersTogether) {
  UpcyclingRecipes recipes;
  const std::string dense = "upcycle.from=" + recipes.run("upcycle_dense");
  const std::string owner = recipes.run("upcycle_flexolmo_owner", {dense});
  const std::string twice = fmt::format("upcycle.branches=[{{from: {0}}}, {{from: {0}}}]", owner);
  EXPECT_GT(recipes.moved("flexolmo", {dense, twice}), 0.0);
}

TEST(ShippedRecipes, GrowTheModelsBesideThem) {
  UpcyclingRecipes recipes;
  const std::string dense = "upcycle.from=" + recipes.run("upcycle_dense");
  const std::string copy = "upcycle.from=" + recipes.run("upcycle_copy", {dense});
  EXPECT_LE(recipes.moved("extend", {copy}), 1e-5);
  const std::string templates = "upcycle.from=" + recipes.run("templates_small");
  EXPECT_GT(recipes.moved("templates", {templates}), 0.0);
}

TEST(ShippedRecipes, PutLorasTogether) {
  UpcyclingRecipes recipes;
  const std::string dense = recipes.run("upcycle_dense");
  // Not from the warm-up's first step, which moves nothing.
  const std::string lora = recipes.run(
      "adapters/lora", {"train.init_from=" + dense, "optim.learning_rate=1.0e-2"});
  EXPECT_GT(recipes.moved("loras", {"upcycle.from=" + dense,
                                    fmt::format("upcycle.branches=[{{from: {0}}}, {{from: {0}}}]",
                                                lora)}),
            0.0);
}

/// The router of a recipe; empty for a dense model.
std::string router_of(const Recipe& recipe) {
  const auto* experts = dynamic_cast<const ExpertsConfig*>(&recipe.model.section("experts"));
  return recipe.model.pattern.find('E') == std::string::npos || experts == nullptr
             ? ""
             : experts->router.type;
}

TEST(ShippedRecipes, ShowEveryRouter) {
  std::set<std::string> shown;
  for (const fs::path& file : recipes())
    shown.insert(router_of(load_recipe({{file.string()}, {}})));
  for (const Choice& choice : router_choices()) {
    EXPECT_TRUE(shown.contains(std::string(choice.name)))
        << "no recipe shows router " << choice.name << "; add recipes/routers/" << choice.name
        << ".yaml";
  }
}

TEST(ShippedRecipes, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const fs::path& file : recipes()) {
    EXPECT_TRUE(names.insert(file.stem().string()).second) << file;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShippedRecipe, ::testing::ValuesIn(recipes()),
                         [](const auto& recipe) { return recipe.param.stem().string(); });

class ShippedComparison : public ::testing::TestWithParam<fs::path> {};

TEST_P(ShippedComparison, OpensWithTheCommandsThatRunIt) {
  const std::string text = text_of(GetParam());
  EXPECT_EQ(text.substr(0, 2), "# ");
  EXPECT_NE(text.find("sluice compare recipes/" + GetParam().filename().string()),
            std::string::npos);
}

TEST_P(ShippedComparison, IsReadAndPlannedWhole) {
  try {
    const Comparison comparison = load_comparison(GetParam());
    EXPECT_GT(comparison.cells.size(), 2U);
    for (const ComparisonCell& cell : comparison.cells) {
      EXPECT_LE(cell.plan.parameters.active, 10'000'000) << cell.name();
    }
  } catch (const ConfigError& error) {
    // The larger text is not in the repository; nothing else may be wrong.
    std::istringstream problems(error.what());
    for (std::string problem; std::getline(problems, problem);) {
      EXPECT_THAT(problem, ::testing::HasSubstr("corpus"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShippedComparison, ::testing::ValuesIn(comparisons()),
                         [](const auto& recipe) { return recipe.param.stem().string(); });

class ShippedTransformation : public ::testing::TestWithParam<fs::path> {};

TEST_P(ShippedTransformation, OpensWithTheCommandsThatRunIt) {
  const std::string text = text_of(GetParam());
  EXPECT_EQ(text.substr(0, 2), "# ");
  const std::string place = fs::relative(GetParam(), SLUICE_SOURCE_DIR).string();
  EXPECT_NE(text.find("sluice transform " + place), std::string::npos);
}

TEST_P(ShippedTransformation, IsReadWhole) {
  TransformConfig config;
  read_or_throw(config, load_documents({{GetParam().string()}, {}}));
  for (const Tagged& method : config.method) {
    EXPECT_NE(transform_registry().at(method.type).make(*method.config), nullptr) << method.type;
  }
  // The model that it starts from is that of a shipped recipe.
  const fs::path run = fs::path(config.from).filename();
  EXPECT_TRUE(fs::exists(fs::path(SLUICE_SOURCE_DIR) / "recipes" / (run.string() + ".yaml")))
      << config.from;
}

INSTANTIATE_TEST_SUITE_P(All, ShippedTransformation, ::testing::ValuesIn(transformations()),
                         [](const auto& recipe) { return recipe.param.stem().string(); });

TEST(ShippedTransformations, ShowEveryMethodAndCriterion) {
  std::string all;
  for (const fs::path& file : transformations()) all += text_of(file);
  for (const auto choices : {transform_choices(), criterion_choices()}) {
    for (const Choice& choice : choices) {
      EXPECT_THAT(all, ::testing::HasSubstr(fmt::format("type: {}", choice.name)));
    }
  }
}

Plan plan_of(const char* name) {
  const Recipe recipe =
      load_recipe({{(fs::path(SLUICE_SOURCE_DIR) / "recipes" / name).string()}, {}});
  return make_plan(recipe, planned_vocab_size(recipe), 0);
}

TEST(Plan, CountsTheParametersOfTheFormula) {
  // Embedding V D; per layer: norms 2 D, attention D P (2 H + 2 K), router E D, experts and shared
  // expert 3 D F each.
  constexpr int64_t V = 4096, D = 384, L = 6, H = 6, K = 2, P = 64, E = 16, F = 256;
  constexpr int64_t kAttention = D * P * (2 * H + 2 * K);
  constexpr int64_t kExpert = 3 * D * F;
  const Plan plan = plan_of("moe_small.yaml");
  EXPECT_EQ(plan.parameters.total,
            V * D + L * (2 * D + kAttention + E * D + (E + 1) * kExpert) + D);
  EXPECT_EQ(plan.parameters.active,
            V * D + L * (2 * D + kAttention + E * D + (2 + 1) * kExpert) + D);
}

TEST(Plan, CountsTheFlopsOfTheFormula) {
  constexpr double V = 4096, D = 384, L = 6, H = 6, K = 2, P = 64, E = 16, F = 256, T = 512;
  // Forward: two FLOPs per weight and token, and the scores and values of (T + 1) / 2 keys on
  // average.
  const double attention = 2 * D * P * (2 * H + 2 * K) + 4 * H * P * (T + 1) / 2;
  const Plan plan = plan_of("moe_small.yaml");
  EXPECT_NEAR(plan.flops_per_token(Phase::attention), 3 * L * attention, 1.0);
  EXPECT_NEAR(plan.flops_per_token(Phase::experts), L * 3 * 2 * 3 * D * F * 3, 1.0);
  EXPECT_NEAR(plan.flops_per_token(Phase::routing), L * 3 * 2 * D * E, 1.0);
  EXPECT_NEAR(plan.flops_per_token(Phase::embedding_and_loss), 3 * 2 * V * D, 1.0);
}

TEST(Plan, OfTheDenseTwinHasTheActiveParametersOfTheMoe) {
  const auto moe = plan_of("moe_small.yaml").parameters;
  const auto dense = plan_of("dense_small.yaml").parameters;
  constexpr int64_t kRouters = 6 * 16 * 384;
  EXPECT_EQ(moe.active - dense.active, kRouters);
}

TEST(Schema, IsTheCommittedOne) {
  Recipe recipe;
  recipe.model.all_sections = true;
  EXPECT_EQ(write_json_schema(recipe, "Sluice recipe"),
            text_of(fs::path(SLUICE_SOURCE_DIR) / "recipes" / "schema.json"))
      << "run: sluice schema > recipes/schema.json";
}

}  // namespace
}  // namespace sluice
