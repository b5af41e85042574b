// A run that records its routes, and one that replays them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/run_files.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/checkpoint/checkpoint.h"
#include "train/trace/trace_file.h"
#include "train/trainer.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::RecordingReporter;
using testing::ScratchFolder;
using testing::tiny_dense_recipe;
using testing::tiny_recipe;

constexpr const char* kEveryStep = "train: {trace: {every: 1}}";

class TrainerTrace : public ::testing::Test {
 protected:
  RunSummary train(const Recipe& recipe, const std::string& folder) {
    RecordingReporter reporter;
    Trainer trainer(recipe, {.folder = scratch_ / folder}, reporter);
    return trainer.run();
  }
  std::string error_of(const Recipe& recipe, const std::string& folder) {
    return testing::error_of<Error>([&] { (void)train(recipe, folder); });
  }
  /// `changes` on top of a recipe that replays the routes of `folder`.
  [[nodiscard]] Recipe replay_of(const std::string& folder, std::string_view changes = {}) const {
    Recipe recipe = tiny_recipe(changes);
    auto config = std::make_shared<ReplayConfig>();
    config->from = (scratch_ / folder / "traces").string();
    recipe.train.replay = config;
    return recipe;
  }
  [[nodiscard]] TraceFolder traces(const std::string& folder) const {
    return TraceFolder(scratch_ / folder / "traces");
  }
  /// The training losses of a run, as text, by step.
  [[nodiscard]] std::vector<std::string> metrics(const std::string& folder) const {
    return testing::metrics_in(scratch_ / folder);
  }

  ScratchFolder scratch_;
};

// --- recording -----------------------------------------------------------------------------------

TEST_F(TrainerTrace, RecordsTheStepsAndEvaluationsAskedFor) {
  (void)train(tiny_recipe("train: {trace: {every: 3 steps}}"), "run");
  EXPECT_THAT(traces("run").steps(TraceKind::training), ElementsAre(3, 6));
  EXPECT_THAT(traces("run").steps(TraceKind::held_out), ElementsAre(4, 8));
  (void)train(tiny_recipe("train: {trace: {every: 1, first_step: 3, last_step: 5, held_out: "
                          "false, layers: [1]}}"),
              "range");
  EXPECT_THAT(traces("range").steps(TraceKind::training), ElementsAre(3, 4, 5));
  EXPECT_THAT(traces("range").steps(TraceKind::held_out), IsEmpty());
  const TraceFile trace(traces("range").path_of(TraceKind::training, 4));
  EXPECT_THAT(trace.meta().layers, ElementsAre(1));
}

TEST_F(TrainerTrace, HoldsTheLoadsThatTheRunReported) {
  (void)train(tiny_recipe(kEveryStep), "run");
  const TraceFile trace(traces("run").path_of(TraceKind::training, 1));
  EXPECT_EQ(trace.tokens(), 128);
  EXPECT_EQ(trace.sequences().size(), 4u);
  EXPECT_THAT(trace.meta().domains, ElementsAre("a", "b"));
  const auto record = nlohmann::json::parse(metrics("run").front());
  const auto counted = trace.counted(0, trace.tokens());
  for (const int64_t layer : {0, 1}) {
    std::vector<double> load(4, 0.0);
    const auto experts = trace.experts(layer, 0, trace.tokens());
    const auto weights = trace.weights(layer, 0, trace.tokens());
    for (size_t slot = 0; slot < experts.size(); ++slot) {
      if (counted[slot / 2] != 0) load[static_cast<size_t>(experts[slot])] += 1.0;
      if (slot % 2 == 0) {
        EXPECT_NEAR(weights[slot] + weights[slot + 1], 1.0, 1e-6);
      }
    }
    EXPECT_EQ(record.at(fmt::format("load/experts/{}", layer)).get<std::vector<double>>(), load);
  }
}

TEST_F(TrainerTrace, ChangesNothingInTheRun) {
  (void)train(tiny_recipe(), "plain");
  (void)train(tiny_recipe(kEveryStep), "traced");
  EXPECT_EQ(metrics("traced"), metrics("plain"));
}

TEST_F(TrainerTrace, DropsWhatLiesBehindTheCheckpointThatItGoesOnFrom) {
  (void)train(tiny_recipe("train: {steps: 8, trace: {every: 1}}"), "run");
  const auto whole = read_file(traces("run").path_of(TraceKind::training, 6), raise_as<DataError>);
  std::filesystem::remove(scratch_ / "run" / "checkpoints" / checkpoint_name(8));
  // Goes on from step 4, and records steps from 7 on only.
  (void)train(tiny_recipe("train: {steps: 8, trace: {every: 1, first_step: 7}}"), "run");
  EXPECT_THAT(traces("run").steps(TraceKind::training), ElementsAre(1, 2, 3, 4, 7, 8));
  EXPECT_THAT(traces("run").steps(TraceKind::held_out), ElementsAre(4, 8));
  std::filesystem::remove(scratch_ / "run" / "checkpoints" / checkpoint_name(8));
  (void)train(tiny_recipe(kEveryStep), "run");
  EXPECT_EQ(read_file(traces("run").path_of(TraceKind::training, 6), raise_as<DataError>), whole);
}

TEST_F(TrainerTrace, IsRefusedForADenseModel) {
  EXPECT_THAT(
      [] { return tiny_dense_recipe(kEveryStep); },
      ::testing::ThrowsMessage<ConfigError>(HasSubstr("train.trace: given, but no symbol")));
}

/// Four dense steps, then four that route.
constexpr std::string_view kDiversify = "model: {experts: {diversify: {steps: 4}}}\n";

TEST_F(TrainerTrace, BeginsWhereTheExpertsAreSpawned) {
  (void)train(tiny_recipe(fmt::format("{}train: {{trace: {{every: 1}}, evaluate: {{every: 2}}}}",
                                      kDiversify)),
              "run");
  EXPECT_THAT(traces("run").steps(TraceKind::training), ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(traces("run").steps(TraceKind::held_out), ElementsAre(4, 6, 8));
  (void)train(replay_of("run", fmt::format("{}train: {{evaluate: {{every: 2}}}}", kDiversify)),
              "again");
  EXPECT_EQ(metrics("again"), metrics("run"));
}

// --- replaying -----------------------------------------------------------------------------------

TEST_F(TrainerTrace, ReplaysItsOwnRoutesToTheSameBits) {
  (void)train(tiny_recipe(kEveryStep), "run");
  (void)train(replay_of("run"), "again");
  EXPECT_EQ(metrics("again"), metrics("run"));
  const auto state = [&](const std::string& folder) {
    return testing::state_in(scratch_ / folder / "checkpoints" / checkpoint_name(8));
  };
  EXPECT_THAT(testing::differing_arrays(state("again"), state("run")), IsEmpty());
}

TEST_F(TrainerTrace, ReplaysWhateverTheMicroBatches) {
  (void)train(tiny_recipe("train: {micro_batch: 128 tokens, trace: {every: 1}}"), "run");
  (void)train(replay_of("run", "train: {micro_batch: 32 tokens, trace: {every: 1}}"), "again");
  for (const int64_t step : {1, 8}) {
    const TraceFile one(traces("run").path_of(TraceKind::training, step));
    const TraceFile two(traces("again").path_of(TraceKind::training, step));
    EXPECT_EQ(two.sequences().back().micro_batch, 3);
    for (const int64_t layer : {0, 1}) {
      EXPECT_EQ(one.experts(layer, 0, 128), two.experts(layer, 0, 128)) << "step " << step;
    }
  }
}

TEST_F(TrainerTrace, ReplaysTheRoutesOfAnotherModel) {
  (void)train(tiny_recipe("train: {trace: {every: 1}}\nmodel: {init: {std: 0.3}}"), "run");
  (void)train(replay_of("run", kEveryStep), "again");
  const TraceFile one(traces("run").path_of(TraceKind::training, 5));
  const TraceFile two(traces("again").path_of(TraceKind::training, 5));
  EXPECT_EQ(one.experts(0, 0, 128), two.experts(0, 0, 128));
  EXPECT_NE(one.weights(0, 0, 128), two.weights(0, 0, 128)) << "the model's own weights";
  EXPECT_NE(metrics("again"), metrics("run"));
}

TEST_F(TrainerTrace, ReplaysRecordedWeightsAndSomeLayersOnly) {
  (void)train(tiny_recipe("train: {trace: {every: 1}}\nmodel: {init: {std: 0.3}}"), "run");
  Recipe recipe = replay_of("run", kEveryStep);
  auto config = std::make_shared<ReplayConfig>();
  config->from = traces("run").path().string();
  config->weights = "recorded";
  config->layers = {1};
  recipe.train.replay = config;
  (void)train(recipe, "again");
  const TraceFile one(traces("run").path_of(TraceKind::training, 5));
  const TraceFile two(traces("again").path_of(TraceKind::training, 5));
  EXPECT_EQ(one.experts(1, 0, 128), two.experts(1, 0, 128));
  EXPECT_EQ(one.weights(1, 0, 128), two.weights(1, 0, 128));
  EXPECT_NE(one.experts(0, 0, 128), two.experts(0, 0, 128));
}

TEST_F(TrainerTrace, SaysWhyATraceDoesNotFit) {
  (void)train(tiny_recipe("train: {steps: 4, trace: {every: 1, last_step: 3}}"), "run");
  EXPECT_THAT(error_of(replay_of("run"), "a"),
              AllOf(HasSubstr("train.replay.from: "), HasSubstr("step_00000004.h5 is missing"),
                    HasSubstr("steps 1 to 8")));
  const std::string three = "train: {steps: 3}\n";
  EXPECT_THAT(error_of(replay_of("run", three + "model: {experts: {num_experts: 8}}"), "b"),
              HasSubstr("step 1: " + traces("run").path_of(TraceKind::training, 1).string() +
                        ": recorded from a model with 2 expert layers of [4, 4] experts, this one "
                        "has 2 of [8, 8]"));
  EXPECT_THAT(error_of(replay_of("run", three + "model: {pattern: \"(AE)x3\"}"), "c"),
              HasSubstr("recorded from a model with 2 expert layers"));
  EXPECT_THAT(error_of(replay_of("run", three + "model: {experts: {top_k: 3}}"), "d"),
              HasSubstr("expert layer 0 was recorded with top_k 2, it has 3 here"));
  EXPECT_THAT(error_of(replay_of("run", three + "seed: 8"), "e"),
              HasSubstr("the tokens of sequence 0 are others than here"));
  EXPECT_THAT(error_of(replay_of("run", "train: {steps: 3, global_batch: 256 tokens}"), "f"),
              HasSubstr("sequence 4 is not in it"));
}

TEST_F(TrainerTrace, SaysWhichLayerWasNotRecorded) {
  (void)train(tiny_recipe("train: {trace: {every: 1, layers: [1]}}"), "run");
  EXPECT_THAT(error_of(replay_of("run"), "a"), HasSubstr("holds no routes of expert layer 0"));
}

}  // namespace
}  // namespace sluice
