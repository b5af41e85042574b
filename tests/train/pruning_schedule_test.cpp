// Experts that become fewer or narrower while a run goes on (train.pruning).

#include "train/pruning_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/support/hdf5.h"
#include "tests/contract/run_checks.h"
#include "tests/support/error_of.h"
#include "tests/support/method_runs.h"
#include "tests/support/run_files.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "tests/support/tiny_trained.h"
#include "train/inspect.h"
#include "train/plan.h"
#include "train/trainer.h"
#include "train/transforms/transform.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using testing::differing_arrays;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::ScratchFolder;
using ::testing::SizeIs;
using testing::state_of;
using testing::tiny_recipe;

constexpr const char* kPrune = "{step: 3, method: {type: prune, num_experts: 3}}";
constexpr const char* kSlim = "{step: 5, method: {type: slim, intermediate_size: 8}}";

/// Two layers of four experts of 12 neurons, top-2, for eight steps.
Recipe recipe_of(const std::string& stages, const std::string& train = "",
                 const std::string& more = "") {
  return tiny_recipe(
      fmt::format("train: {{pruning: {{calibration_tokens: 256, stages: [{}]}}, {}}}\n{}", stages,
                  train, more));
}

Recipe two_stages(const std::string& train = "", const std::string& more = "") {
  return recipe_of(fmt::format("{}, {}", kPrune, kSlim), train, more);
}

void steps(sluice::Run& run, int count) {
  for (int i = 0; i < count; ++i) {
    const StepResult result = run.step();
    ASSERT_TRUE(result.applied) << result.problem;
  }
}

/// Slice i of `array` along an axis.
std::vector<std::byte> slice_of(const StateArray& array, size_t axis, int64_t index) {
  int64_t outer = 1;
  for (size_t i = 0; i < axis; ++i) outer *= array.dims[i];
  const int64_t size = array.dims[axis];
  const int64_t inner = std::ssize(array.bytes) / (outer * size);
  std::vector<std::byte> result;
  for (int64_t o = 0; o < outer; ++o) {
    const auto first = array.bytes.begin() + (o * size + index) * inner;
    result.insert(result.end(), first, first + inner);
  }
  return result;
}

/// Expert e of a stack.
StateArray expert_of(const StateArray& stack, int64_t e) {
  return {stack.type, {stack.dims.begin() + 1, stack.dims.end()}, slice_of(stack, 0, e)};
}

// --- one stage -------------------------------------------------------------------------------------

TEST(PruningSchedule, KeepsWhatIsLeftBitForBit) {
  SingleRank communicator;
  sluice::Run run(recipe_of(kPrune), communicator);
  steps(run, 3);
  const StateDict before = state_of(run);
  ASSERT_TRUE(run.pruning_is_due());
  const TransformReceipt receipt = run.prune();
  EXPECT_FALSE(run.pruning_is_due());
  const StateDict after = state_of(run);
  int64_t cut = 0;
  for (const auto& [path, array] : after) {
    if (path.starts_with("run/") || path == kPrunedStages) continue;
    const StateArray& whole = before.at(path);
    if (array.dims == whole.dims) {
      EXPECT_EQ(array, whole) << path;
      continue;
    }
    ++cut;
    const bool is_first = path.find("layers.1.") != path.npos || path.starts_with("balance/0");
    const std::vector<int32_t>& kept = receipt.layers[is_first ? 0 : 1].kept;
    ASSERT_EQ(array.dims[0], 3) << path;
    for (int64_t e = 0; e < 3; ++e) {
      EXPECT_EQ(slice_of(array, 0, e), slice_of(whole, 0, kept[static_cast<size_t>(e)])) << path;
    }
  }
  // Of each layer: three matrices and a router, with two moments each, and a bias.
  EXPECT_EQ(cut, 2 * (4 * 3 + 1));
  for (const char* path : {"run/step", "run/tokens", "run/skipped", "data/loader"}) {
    EXPECT_EQ(after.at(path), before.at(path)) << path;
  }
  EXPECT_EQ(after.size(), before.size());
  EXPECT_THAT(run.model().experts_per_layer(), Each(3));
  EXPECT_TRUE(run.step().applied);
}

/// Which slice of `whole` is slice i of `part`; -1 for none.
int64_t place_of(const StateArray& part, const StateArray& whole, size_t axis, int64_t i) {
  for (int64_t j = 0; j < whole.dims[axis]; ++j) {
    if (slice_of(whole, axis, j) == slice_of(part, axis, i)) return j;
  }
  return -1;
}

TEST(PruningSchedule, KeepsTheNeuronsThatAreLeftWithTheirMoments) {
  SingleRank communicator;
  sluice::Run run(recipe_of("{step: 2, method: {type: slim, intermediate_size: 8}}"), communicator);
  steps(run, 2);
  const StateDict before = state_of(run);
  (void)run.prune();
  const StateDict after = state_of(run);
  for (const std::string layer : {"layers.1", "layers.3"}) {
    for (int64_t e = 0; e < 4; ++e) {
      const auto expert = [&](const StateDict& state, const std::string& path) {
        return expert_of(state.at(path), e);
      };
      const std::string gate = fmt::format("model/{}.experts.w_gate", layer);
      int64_t last = -1;
      for (int64_t i = 0; i < 8; ++i) {
        const int64_t place = place_of(expert(after, gate), expert(before, gate), 0, i);
        EXPECT_GT(place, last) << "neurons stay in their order";
        last = place;
        for (const std::string matrix : {"w_gate", "w_up", "w_down"}) {
          const size_t axis = matrix == "w_down" ? 1 : 0;
          for (const char* form :
               {"model/{}.experts.{}", "optim/{}.experts.{}/m", "optim/{}.experts.{}/v"}) {
            const std::string path = fmt::format(fmt::runtime(form), layer, matrix);
            EXPECT_EQ(slice_of(expert(after, path), axis, i),
                      slice_of(expert(before, path), axis, place))
                << path;
          }
        }
      }
    }
  }
  EXPECT_TRUE(run.step().applied);
}

TEST(PruningSchedule, OfExpertsThatNobodyChoosesChangesNoLoss) {
  // A bias decides who is chosen, and no more: weights are renormalised scores.
  const Recipe recipe =
      recipe_of("{step: 2, method: {type: prune, num_experts: 2, criterion: {type: frequency}}}",
                "", "model: {dtype: f64}");
  SingleRank communicator;
  sluice::Run first(recipe, communicator);
  steps(first, 2);
  Checkpoint biased = first.checkpoint(std::nullopt);
  for (const char* path : {"balance/0/loss_free_bias/bias", "balance/1/loss_free_bias/bias"}) {
    StateArray& bias = biased.state.at(path);
    const std::vector<double> values = {100.0, -100.0, -100.0, 100.0};
    std::copy_n(reinterpret_cast<const std::byte*>(values.data()), bias.bytes.size(),
                bias.bytes.begin());
  }
  sluice::Run run(recipe, communicator, biased, "biased");
  const double before = run.evaluate()->loss.nats;
  const TransformReceipt receipt = run.prune();
  for (const TransformReceipt::Layer& layer : receipt.layers) {
    EXPECT_THAT(layer.kept, ElementsAre(0, 3));
  }
  EXPECT_NEAR(run.evaluate()->loss.nats, before, 1e-12 * before);
  ASSERT_TRUE(receipt.parity.has_value());
  EXPECT_LE(receipt.parity->largest_difference, 1e-12);
  EXPECT_LT(receipt.after.total, receipt.before.total);
}

TEST(PruningSchedule, OfNothingIsTheSameRunBitForBit) {
  SingleRank communicator;
  sluice::Run plain(tiny_recipe(), communicator);
  sluice::Run pruned(
      recipe_of("{step: 2, method: {type: prune, num_experts: 4}}, {step: 3, method: {type: slim, "
                "intermediate_size: 12}}"),
      communicator);
  steps(plain, 6);
  steps(pruned, 6);
  for (const std::string& path : differing_arrays(state_of(plain), state_of(pruned))) {
    // What is remembered of single experts started anew.
    EXPECT_TRUE(path == kPrunedStages || path.starts_with("run/loads/") ||
                path.starts_with("run/watch/unrecorded_load"))
        << path;
  }
}

TEST(PruningSchedule, TakesEveryMethodAndCriterion) {
  std::vector<std::string> methods = {
      "type: merge, num_experts: 2", "type: cluster, num_experts: 2",
      "type: recombine, num_experts: 2", "type: partial_merge, num_experts: 2",
      "type: search, num_experts: 2, population: 2, discrete: 2, continuous: 0"};
  for (const Choice& criterion : criterion_choices()) {
    methods.push_back(
        fmt::format("type: prune, num_experts: 2, criterion: {{type: {}}}", criterion.name));
  }
  SingleRank communicator;
  for (const std::string& method : methods) {
    sluice::Run run(recipe_of(fmt::format("{{step: 1, method: {{{}}}}}", method)), communicator);
    steps(run, 3);
    EXPECT_THAT(run.model().experts_per_layer(), Each(2)) << method;
    EXPECT_TRUE(std::isfinite(run.evaluate()->loss.nats)) << method;
  }
}

TEST(PruningSchedule, MayDoTwoStagesAtOneStep) {
  SingleRank communicator;
  sluice::Run run(
      recipe_of("{step: 2, method: {type: prune, num_experts: 2}}, {step: 2, method: {type: slim, "
                "intermediate_size: 6}}"),
      communicator);
  steps(run, 3);
  EXPECT_THAT(state_of(run).at("model/layers.1.experts.w_up").dims, ElementsAre(2, 6, 16));
}

// --- the schedule ----------------------------------------------------------------------------------

TEST(PruningSchedule, IsAFunctionOfTheRecipeAndTheStagesDone) {
  const Recipe recipe = two_stages();
  const auto sizes = [&](int64_t stages) {
    const Recipe after = pruned_recipe(recipe, stages);
    EXPECT_EQ(after.train.pruning, nullptr);
    const auto& experts = dynamic_cast<const ExpertsConfig&>(*after.model.routed_layers().front());
    return ExpertSizes{experts.num_experts, experts.intermediate_size};
  };
  EXPECT_EQ(sizes(0), (ExpertSizes{4, 12}));
  EXPECT_EQ(sizes(1), (ExpertSizes{3, 12}));
  EXPECT_EQ(sizes(2), (ExpertSizes{3, 8}));
  EXPECT_EQ(resolved_text(pruned_recipe(tiny_recipe(), 0)), resolved_text(tiny_recipe()));
}

TEST(PruningSchedule, ResumesBitForBitBeforeBetweenAndAfterTheStages) {
  const Recipe recipe = two_stages();
  SingleRank communicator;
  sluice::Run whole(recipe, communicator);
  std::vector<Checkpoint> checkpoints;
  const auto keep = [&] { checkpoints.push_back(whole.checkpoint(std::nullopt)); };
  for (int step = 0; step < 8; ++step) {
    // After three and five steps once before the stage and once behind it.
    if (step >= 2) keep();
    if (whole.pruning_is_due()) {
      (void)whole.prune();
      keep();
    }
    steps(whole, 1);
  }
  ASSERT_THAT(checkpoints, SizeIs(8));
  EXPECT_THAT(state_of(whole).at("model/layers.1.experts.w_up").dims, ElementsAre(3, 8, 16));
  const ScratchFolder folder;
  const auto file = folder.path() / "step.h5";
  for (const Checkpoint& checkpoint : checkpoints) {
    write_checkpoint(real_file_system(), file, checkpoint);
    sluice::Run resumed(recipe, communicator, read_checkpoint(file), "step.h5");
    StateDict state = checkpoint.state;
    state.erase("run/seconds");
    EXPECT_THAT(differing_arrays(state_of(resumed), state), IsEmpty()) << checkpoint.meta.step;
    while (!resumed.finished()) steps(resumed, 1);
    EXPECT_THAT(differing_arrays(state_of(resumed), state_of(whole)), IsEmpty())
        << checkpoint.meta.step;
  }
}

TEST(PruningSchedule, DoesNotDependOnThreads) {
  testing::expect_same_state_on_any_threads(
      recipe_of("{step: 1, method: {type: prune, num_experts: 3}}, {step: 2, method: {type: slim, "
                "intermediate_size: 7}}"));
}

TEST(PruningSchedule, GoesWithATeacher) {
  const ScratchFolder folder;
  const std::string teacher = (folder / "teacher.h5").string();
  write_checkpoint(real_file_system(), teacher, testing::tiny_checkpoint("", 4));
  const Recipe recipe = two_stages(fmt::format("distillation: {{teacher: \"{}\"}}", teacher));
  SingleRank communicator;
  sluice::Run whole(recipe, communicator);
  for (int i = 0; i < 8; ++i) {
    const StepResult result = whole.step();
    ASSERT_TRUE(result.applied) << result.problem;
    EXPECT_GT(result.distillation.value_or(0.0), 0.0);
  }
  sluice::Run begun(recipe, communicator);
  steps(begun, 4);
  sluice::Run resumed(recipe, communicator, begun.checkpoint(std::nullopt), "memory");
  steps(resumed, 4);
  EXPECT_THAT(differing_arrays(state_of(resumed), state_of(whole)), IsEmpty());
}

TEST(PruningSchedule, FollowsTheSpawningOfExperts) {
  const std::string diversified = "model: {experts: {diversify: {steps: 2, mask: 0.1}}}";
  SingleRank communicator;
  sluice::Run run(recipe_of(kPrune, "", diversified), communicator);
  steps(run, 5);
  EXPECT_THAT(run.model().experts_per_layer(), Each(3));
  EXPECT_THAT(error_of<ConfigError>([&] {
                (void)recipe_of("{step: 1, method: {type: prune, num_experts: 3}}", "",
                                diversified);
              }),
              AllOf(HasSubstr("train.pruning.stages.0"), HasSubstr("diversify.steps: 2")));
}

// --- routers and balancing methods -----------------------------------------------------------------

class EveryMethodIsPruned : public ::testing::TestWithParam<testing::MethodInARun> {};

TEST_P(EveryMethodIsPruned, InARunThatIsResumedOrSaysWhyNot) {
  std::string changes = GetParam().changes;
  const std::string train = "train: {micro_batch: 64 tokens";
  const size_t at = changes.find(train);
  ASSERT_NE(at, changes.npos);
  changes.insert(at + train.size(),
                 ", pruning: {calibration_tokens: 128, stages: [{step: 2, method: {type: prune, "
                 "num_experts: 3, criterion: {type: frequency}}}]}");
  // Groups of experts of equal size, one expert for each domain, rows that stand for no expert.
  const std::set<std::string> refused = {"balance_device_aux_loss",
                                         "balance_null_expert_loss",
                                         "router_mixer",
                                         "router_node_limited",
                                         "router_grouped_top_k",
                                         "router_null_experts",
                                         "balance_loss_free_bias_multiplicative"};
  std::optional<Recipe> recipe;
  const std::string problem = error_of<ConfigError>([&] { recipe = tiny_recipe(changes); });
  if (!recipe) {
    EXPECT_THAT(problem, HasSubstr("train.pruning.stages.0"));
    EXPECT_TRUE(refused.contains(GetParam().name) || problem.find("without scores") != problem.npos)
        << problem;
    return;
  }
  EXPECT_FALSE(refused.contains(GetParam().name));
  SingleRank communicator;
  sluice::Run whole(*recipe, communicator);
  steps(whole, 1);
  const Checkpoint before = whole.checkpoint(std::nullopt);
  steps(whole, 2);
  const Checkpoint after = whole.checkpoint(std::nullopt);
  steps(whole, 1);
  EXPECT_THAT(whole.model().experts_per_layer(), Each(3));
  for (const Checkpoint& checkpoint : {before, after}) {
    sluice::Run resumed(*recipe, communicator, checkpoint, "memory");
    steps(resumed, static_cast<int>(4 - checkpoint.meta.step));
    EXPECT_THAT(differing_arrays(state_of(resumed), state_of(whole)), IsEmpty())
        << checkpoint.meta.step;
  }
}

std::vector<testing::MethodInARun> routers_and_balancers() {
  std::vector<testing::MethodInARun> result = testing::methods_in_runs();
  std::erase_if(result, [](const testing::MethodInARun& method) {
    return !method.name.starts_with("balance_") && !method.name.starts_with("router_");
  });
  return result;
}

INSTANTIATE_TEST_SUITE_P(All, EveryMethodIsPruned, ::testing::ValuesIn(routers_and_balancers()),
                         [](const auto& method) { return method.param.name; });

// --- what a run leaves behind ----------------------------------------------------------------------

class PrunedRun : public ::testing::Test {
 protected:
  void train(const Recipe& recipe, const std::string& folder) {
    Trainer trainer(recipe, {.folder = scratch_ / folder}, reporter_);
    EXPECT_EQ(trainer.run().reason, StopReason::complete);
  }
  [[nodiscard]] std::filesystem::path checkpoint(const std::string& folder, int64_t step) const {
    return scratch_ / folder / "checkpoints" / checkpoint_name(step);
  }
  /// The records of stages, whole.
  [[nodiscard]] std::vector<nlohmann::json> events(const std::string& folder) const {
    std::vector<nlohmann::json> found;
    for (const std::string& line : testing::metrics_in(scratch_ / folder)) {
      auto record = nlohmann::json::parse(line);
      if (record.contains("pruning/parameters")) found.push_back(std::move(record));
    }
    return found;
  }

  ScratchFolder scratch_;
  testing::RecordingReporter reporter_;
};

TEST_F(PrunedRun, RecordsSizeActiveParametersAndLoss) {
  train(two_stages("evaluate: {every: 5}"), "run");
  const std::vector<nlohmann::json> records = events("run");
  ASSERT_THAT(records, SizeIs(2));
  EXPECT_EQ(records[0].at("step"), 3);
  EXPECT_EQ(records[1].at("step"), 5);
  EXPECT_EQ(records[0].at("pruning/experts"), 6);
  // An expert and a row of the router less in each of two layers; all experts four neurons narrower.
  const auto value = [&](size_t i, const char* name) { return records[i].at(name).get<double>(); };
  EXPECT_EQ(value(0, "pruning/parameters_before") - value(0, "pruning/parameters"),
            2 * (3 * 12 * 16 + 16));
  EXPECT_EQ(value(0, "pruning/active_parameters_before") - value(0, "pruning/active_parameters"),
            2 * 16);
  EXPECT_EQ(value(1, "pruning/parameters_before"), value(0, "pruning/parameters"));
  EXPECT_EQ(value(1, "pruning/parameters_before") - value(1, "pruning/parameters"),
            2 * 3 * (3 * 4 * 16));
  EXPECT_EQ(value(1, "pruning/active_parameters_before") - value(1, "pruning/active_parameters"),
            2 * 2 * (3 * 4 * 16));
  for (const char* name : {"pruning/loss_before", "pruning/loss"}) {
    EXPECT_GT(value(0, name), 0.0) << name;
  }
  EXPECT_GT(value(0, "pruning/divergence"), 0.0);
  // Evaluated at step 5, before the stage, on the same text.
  for (const std::string& line : testing::metrics_in(scratch_ / "run")) {
    const auto record = nlohmann::json::parse(line);
    if (record.at("step") != 5 || !record.contains("eval/loss")) continue;
    EXPECT_NEAR(record.at("eval/loss").get<double>(), value(1, "pruning/loss_before"), 1e-5);
  }
  const auto receipt = nlohmann::json::parse(
      read_file(scratch_ / "run" / "pruning" / "step_00000003.json", raise_as<DataError>));
  EXPECT_EQ(receipt.at("method"), "prune reap");
  EXPECT_THAT(receipt.at("layers")[0].at("kept"), SizeIs(3));
  EXPECT_TRUE(std::filesystem::exists(scratch_ / "run" / "pruning" / "step_00000005.json"));
}

TEST_F(PrunedRun, NeedsNoHeldOutText) {
  train(recipe_of(kPrune, "", "data: {held_out: {fraction: 0}}"), "run");
  const std::vector<nlohmann::json> records = events("run");
  ASSERT_THAT(records, SizeIs(1));
  EXPECT_FALSE(records[0].contains("pruning/loss"));
  EXPECT_TRUE(records[0].contains("pruning/parameters"));
}

TEST_F(PrunedRun, GoesOnAfterAKillWithTheSameBitsAndRecords) {
  const Recipe recipe = two_stages("evaluate: {every: 3}", "checkpoint: {every: 1, keep: 10}");
  train(recipe, "whole");
  for (const int64_t step : {2, 3, 6}) {
    const std::string cut = fmt::format("cut{}", step);
    std::filesystem::create_directories(scratch_ / cut / "checkpoints");
    std::filesystem::copy(checkpoint("whole", step), checkpoint(cut, step));
    for (const char* file : {"metrics.jsonl", "routing.jsonl"}) {
      std::filesystem::copy(scratch_ / "whole" / file, scratch_ / cut / file);
    }
    train(recipe, cut);
    EXPECT_THAT(differing_arrays(testing::state_in(checkpoint(cut, 8)),
                                 testing::state_in(checkpoint("whole", 8))),
                IsEmpty())
        << step;
    EXPECT_EQ(testing::metrics_in(scratch_ / cut), testing::metrics_in(scratch_ / "whole")) << step;
    EXPECT_EQ(testing::routing_in(scratch_ / cut), testing::routing_in(scratch_ / "whole")) << step;
  }
}

TEST_F(PrunedRun, SavesCheckpointsThatEverybodyReads) {
  train(two_stages("evaluate: {every: 1}", "checkpoint: {every: 1, keep: 10}"), "run");
  EXPECT_THAT(inspect(checkpoint("run", 2), CheckpointChoice::newest).checkpoint->experts,
              ElementsAre(4, 4));
  const auto inspected = inspect(checkpoint("run", 3), CheckpointChoice::newest).checkpoint;
  EXPECT_THAT(inspected->experts, ElementsAre(3, 3));
  EXPECT_FALSE(inspected->meta.eval_loss.has_value())
      << "the loss at step 3 was that of the model before";
  const Checkpoint last = read_checkpoint(checkpoint("run", 8));
  EXPECT_TRUE(last.meta.eval_loss.has_value());
  TrainedModel trained = build_trained_model(last, "run");
  EXPECT_THAT(trained.model->experts_per_layer(), ElementsAre(3, 3));
  EXPECT_EQ(trained.recipe.train.pruning, nullptr);
  EXPECT_THAT(testing::logits_of(trained, {97, 98, 99}),
              Each(::testing::Truly([](double logit) { return std::isfinite(logit); })));
  // The model can be transformed again, and be what another run starts from.
  TransformConfig config;
  config.from = checkpoint("run", 8).string();
  config.calibration.tokens = 256;
  const Recipe one = recipe_of("{step: 1, method: {type: prune, num_experts: 2}}");
  const Transformed made = Transformation(config).run(pruning_of(one)->stage(0).method, 1);
  EXPECT_EQ(made.recipe.model.routed_layers().front()->num_experts, 2);
  SingleRank communicator;
  sluice::Run healed(made.recipe, communicator, made.checkpoint, "transformed");
  EXPECT_TRUE(healed.step().applied);
}

TEST_F(PrunedRun, FillsUpLoadsOfExpertsThatAreGone) {
  train(recipe_of(kPrune, "", "log: {every: 1, sinks: [jsonl, hdf5]}"), "run");
  const auto file = hdf5::File::open(scratch_ / "run" / "metrics.h5", raise_as<CheckpointError>);
  EXPECT_THAT(file.info("/load/experts/0/value").dims, ElementsAre(8, 4));
  const auto loads = file.read<double>("/load/experts/0/value");
  EXPECT_FALSE(std::isnan(loads[2 * 4 + 3]));
  EXPECT_TRUE(std::isnan(loads[3 * 4 + 3]));
  EXPECT_FALSE(std::isnan(loads[3 * 4 + 2]));
}

TEST(PlannedPruning, CountsEveryStage) {
  const Plan whole = make_plan(tiny_recipe(), 257, 0);
  const Plan pruned = make_plan(two_stages(), 257, 0);
  EXPECT_EQ(pruned.parameters.total, whole.parameters.total);
  ASSERT_THAT(pruned.stages, SizeIs(2));
  EXPECT_EQ(pruned.stages[0].step, 3);
  EXPECT_EQ(whole.parameters.total - pruned.stages[0].parameters.total, 2 * (3 * 12 * 16 + 16));
  EXPECT_EQ(pruned.stages[0].parameters.active - pruned.stages[1].parameters.active,
            2 * 2 * (3 * 4 * 16));
  EXPECT_EQ(pruned.last_parameters().total, pruned.stages[1].parameters.total);
  EXPECT_EQ(pruned.activity->start.active_parameters, whole.activity->start.active_parameters);
  EXPECT_EQ(pruned.activity->end.active_parameters,
            static_cast<double>(pruned.stages[1].parameters.active));
  // Five steps of eight before narrower experts.
  EXPECT_LT(pruned.mean_flops_per_token(), whole.mean_flops_per_token());
  EXPECT_GT(pruned.mean_flops_per_token(), pruned.activity->end.flops_per_token);
}

// --- what is refused -------------------------------------------------------------------------------

TEST(PruningSchedule, SaysWhatIsAllowed) {
  const auto refusal = [](const std::string& stages, const std::string& train = "",
                          const std::string& more = "") {
    return error_of<ConfigError>([&] { (void)recipe_of(stages, train, more); });
  };
  EXPECT_THAT(refusal(""), HasSubstr("train.pruning.stages: found none, allowed one or more"));
  EXPECT_THAT(refusal("{step: 3, method: {type: prune, num_experts: 5}}"),
              HasSubstr("train.pruning.stages.0: method.num_experts: found 5, allowed 2 "
                        "(model.experts.top_k of the model) to 4 (model.experts.num_experts)"));
  EXPECT_THAT(refusal("{step: 3, method: {type: prune, num_experts: 1}}"),
              HasSubstr("found 1, allowed 2 (model.experts.top_k"));
  EXPECT_THAT(
      refusal(fmt::format("{}, {{step: 4, method: {{type: merge, num_experts: 4}}}}", kPrune)),
      HasSubstr("train.pruning.stages.1: method.num_experts: found 4, allowed 2 "
                "(model.experts.top_k of the model) to 3"));
  EXPECT_THAT(refusal("{step: 3, method: {type: slim, intermediate_size: 13}}"),
              HasSubstr("method.intermediate_size: found 13, allowed 1 to 12"));
  EXPECT_THAT(
      refusal("{step: 8, method: {type: prune, num_experts: 3}}"),
      HasSubstr("train.pruning.stages.0.step: found 8, allowed less than 8, the steps of the "
                "run (train.steps)"));
  EXPECT_THAT(refusal(fmt::format("{}, {}", kSlim, kPrune)),
              HasSubstr("train.pruning.stages.1.step: found 3, allowed at least 5"));
  EXPECT_THAT(refusal("{method: {type: prune, num_experts: 3}}"), HasSubstr("step: missing"));
  EXPECT_THAT(refusal("{step: 3}"), HasSubstr("method: missing"));
  EXPECT_THAT(refusal(kPrune, "freeze_experts: [0]"), HasSubstr("beside train.freeze_experts"));
  EXPECT_THAT(refusal(kPrune, "", "model: {experts: {pool_layers: all}}"),
              AllOf(HasSubstr("train.pruning.stages.0: "), HasSubstr("several layers share")));
  EXPECT_THAT(refusal("{step: 3, method: {type: merge, num_experts: 2}}", "",
                      "model: {experts: {form: {type: mlp}}}"),
              HasSubstr("allowed swiglu"));
  EXPECT_THAT(refusal(kPrune, "", "model: {experts: {form: {type: gru}}}"),
              HasSubstr("outputs depend on earlier tokens"));
  EXPECT_THAT(refusal(kPrune, "",
                      "model: {experts: {top_k: 1, router: {type: hash}}}\nbalance: {type: none}"),
              HasSubstr("model.experts.router: found hash, which chooses without scores"));
  // At a later step a token shall have more experts than are left.
  EXPECT_THAT(refusal("{step: 3, method: {type: prune, num_experts: 2}}", "",
                      "model: {experts: {top_k: {type: linear, from: 1, to: 4}, router: {weights: "
                      "as_is}}}"),
              AllOf(HasSubstr("train.pruning.stages.0"), HasSubstr("top_k")));
  EXPECT_THAT(error_of<ConfigError>([] {
                (void)testing::tiny_dense_recipe(
                    fmt::format("train: {{pruning: {{stages: [{}]}}}}", kPrune));
              }),
              AllOf(HasSubstr("train.pruning.stages.0"), HasSubstr("has no layer of experts (E)")));
}

TEST(PruningSchedule, IsCheckedAgainstALengthInEpochsWhenTheDataIsKnown) {
  const Recipe recipe =
      recipe_of("{step: 1000, method: {type: prune, num_experts: 3}}", "steps: 1 epochs");
  EXPECT_THAT(error_of<ConfigError>([&] { (void)make_plan(recipe, 257, 1280); }),
              HasSubstr("found 1000, allowed less than 10, the steps of the run"));
}

TEST(PruningSchedule, MayNotChangeWhenARunIsResumed) {
  const auto refused = refused_changes(two_stages(), recipe_of(kPrune));
  EXPECT_FALSE(refused.empty());
  for (const FieldDifference& difference : refused) {
    EXPECT_THAT(difference.key, ::testing::StartsWith("train.pruning.stages.1"));
  }
}

TEST(PruningSchedule, BelievesNoNumberOfStagesThatTheRecipeHasNot) {
  SingleRank communicator;
  sluice::Run run(recipe_of(kPrune), communicator);
  Checkpoint checkpoint = run.checkpoint(std::nullopt);
  const int64_t stages = 2;
  std::copy_n(reinterpret_cast<const std::byte*>(&stages), sizeof stages,
              checkpoint.state.find(kPrunedStages)->second.bytes.begin());
  EXPECT_THAT(
      error_of<CheckpointError>([&] { (void)build_trained_model(checkpoint, "bad.h5"); }),
      HasSubstr("bad.h5: /pruning/stages is no number of stages of train.pruning, which has 1"));
}

}  // namespace
}  // namespace sluice
