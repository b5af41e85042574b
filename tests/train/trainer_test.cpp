#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "tests/support/error_of.h"
#include "tests/support/run_files.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using testing::differing_arrays;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::RecordingReporter;
using testing::ScratchFolder;
using ::testing::SizeIs;
using ::testing::StartsWith;
using testing::state_of;
using testing::tiny_dense_recipe;
using testing::tiny_recipe;

class TrainerTest : public ::testing::Test {
 protected:
  RunSummary train(const Recipe& recipe, const std::string& folder,
                   const std::string& resume = "auto") {
    reporter_ = {};
    Trainer trainer(recipe, {.folder = scratch_ / folder, .resume = resume}, reporter_);
    return trainer.run();
  }
  std::string error_of(const Recipe& recipe, const std::string& folder,
                       const std::string& resume = "auto") {
    return testing::error_of<Error>([&] { (void)train(recipe, folder, resume); });
  }
  [[nodiscard]] std::filesystem::path checkpoint(const std::string& folder, int64_t step) const {
    return scratch_ / folder / "checkpoints" / checkpoint_name(step);
  }
  [[nodiscard]] StateDict state_in(const std::string& folder, int64_t step) const {
    return testing::state_in(checkpoint(folder, step));
  }
  [[nodiscard]] std::vector<std::string> metrics_of(const std::string& folder) const {
    return testing::metrics_in(scratch_ / folder);
  }
  /// Makes `folder` what that of `whole` was when its run, cut off later, had saved `step`.
  void cut(const std::string& whole, int64_t step, const std::string& folder) const {
    std::filesystem::create_directories(scratch_ / folder / "checkpoints");
    std::filesystem::copy(checkpoint(whole, step), checkpoint(folder, step));
    for (const char* file : {"metrics.jsonl", "routing.jsonl"}) {
      if (!std::filesystem::exists(scratch_ / whole / file)) continue;
      std::filesystem::copy(scratch_ / whole / file, scratch_ / folder / file);
    }
  }
  /// The same bits after `step`, and the same metrics on the way.
  void expect_same(const std::string& folder, const std::string& whole, int64_t step) const {
    EXPECT_THAT(differing_arrays(state_in(folder, step), state_in(whole, step)), IsEmpty())
        << folder;
    EXPECT_EQ(metrics_of(folder), metrics_of(whole)) << folder;
    EXPECT_EQ(testing::routing_in(scratch_ / folder), testing::routing_in(scratch_ / whole))
        << folder;
  }

  ScratchFolder scratch_;
  RecordingReporter reporter_;
};

// --- a run ---------------------------------------------------------------------------------------

TEST_F(TrainerTest, TrainsToTheEndAndSaysWhatItDid) {
  const RunSummary summary = train(tiny_recipe(), "run");
  EXPECT_EQ(summary.reason, StopReason::complete);
  EXPECT_EQ(summary.step, 8);
  EXPECT_EQ(summary.checkpoint, checkpoint("run", 8));
  ASSERT_TRUE(summary.evaluation.has_value());
  EXPECT_GT(summary.evaluation->loss.bits_per_byte(), 0.0);
  EXPECT_EQ(summary.best_eval_loss, summary.evaluation->loss.per_token());
  EXPECT_GT(summary.tokens_per_second, 0.0);
  EXPECT_GT(summary.peak_memory_bytes, 0);
  EXPECT_EQ(reporter_.first_step, 0);
  EXPECT_TRUE(reporter_.summary.has_value());
}

TEST_F(TrainerTest, WritesOneRecordPerStepAndPerEvaluation) {
  (void)train(tiny_recipe("log: {every: 2 steps}"), "run");
  std::vector<std::pair<int, std::string>> seen;
  for (const std::string& line : metrics_of("run")) {
    const auto record = nlohmann::json::parse(line);
    seen.emplace_back(record.at("step").get<int>(),
                      record.contains("eval/loss") ? "eval" : "train");
  }
  EXPECT_THAT(seen,
              ElementsAre(std::pair(2, "train"), std::pair(4, "train"), std::pair(4, "eval"),
                          std::pair(6, "train"), std::pair(8, "train"), std::pair(8, "eval")));
}

TEST_F(TrainerTest, RecordsWhatTheStableNamesPromise) {
  (void)train(tiny_recipe("train: {steps: 4}"), "run");
  const auto lines = metrics_of("run");
  const auto step = nlohmann::json::parse(lines.front());
  for (const std::string name :
       {"train/loss", "train/balance_loss", "train/z_loss", "train/grad_norm", "train/lr",
        "load/max_violation", "load/max_violation/0", "load/max_violation/1", "load/dead_experts",
        "load/dropped_fraction", "tokens"}) {
    EXPECT_TRUE(step.contains(name)) << name;
  }
  const auto evaluation = nlohmann::json::parse(lines.back());
  for (const std::string name : {"eval/loss", "eval/perplexity", "eval/bits_per_byte",
                                 "eval/loss/a", "eval/loss/b", "eval/max_violation"}) {
    EXPECT_TRUE(evaluation.contains(name)) << name;
  }
}

TEST_F(TrainerTest, TrainsADenseModelWithoutLoads) {
  (void)train(tiny_dense_recipe("train: {steps: 4}"), "run");
  const auto step = nlohmann::json::parse(metrics_of("run").front());
  EXPECT_TRUE(step.contains("train/loss"));
  EXPECT_FALSE(step.contains("load/max_violation"));
  EXPECT_FALSE(step.contains("train/balance_loss"));
}

TEST_F(TrainerTest, LowersTheHeldOutLoss) {
  const RunSummary summary = train(tiny_recipe("train: {steps: 60, evaluate: {every: 60}}"), "run");
  const auto first = nlohmann::json::parse(metrics_of("run").front());
  EXPECT_LT(summary.evaluation->loss.per_token(), 0.7 * first.at("train/loss").get<double>());
}

TEST_F(TrainerTest, ProfilesTheCallsOfEveryStepButTheFirst) {
  Trainer trainer(tiny_recipe("train: {steps: 4}"), {.folder = scratch_ / "run", .profile = true},
                  reporter_);
  const RunSummary summary = trainer.run();
  ASSERT_TRUE(summary.profile.has_value());
  EXPECT_EQ(summary.profile->steps, 3);
  EXPECT_GT(summary.profile->triad_peak, 0.0);
  EXPECT_GT(summary.profile->unaccounted(), 0.0);
  const auto& entries = summary.profile->entries;
  for (const char* name : {"swiglu_experts", "causal_attention", "linear_cross_entropy",
                           "gradient_norm", "optimizer_step"}) {
    const auto entry = std::find_if(entries.begin(), entries.end(),
                                    [&](const ProfileEntry& e) { return e.name == name; });
    ASSERT_NE(entry, entries.end()) << name;
    EXPECT_EQ(entry->total.calls % 3, 0) << name;
    EXPECT_GT(entry->total.bytes, 0.0) << name;
  }
  std::ifstream file(scratch_ / "run" / "profile.json");
  const auto page = nlohmann::json::parse(file);
  EXPECT_GT(page.at("traceEvents").size(), 30U);
}

TEST_F(TrainerTest, IsTheSameRunUnderTheProfiler) {
  (void)train(tiny_recipe(), "plain");
  Trainer trainer(tiny_recipe(), {.folder = scratch_ / "profiled", .profile = true}, reporter_);
  (void)trainer.run();
  expect_same("profiled", "plain", 8);
}

// --- what must not change a run ------------------------------------------------------------------

TEST_F(TrainerTest, GivesTheSameBitsOnAnyNumberOfThreads) {
  (void)train(tiny_recipe("threads: 1"), "one");
  for (const int threads : {2, 3}) {
    const std::string folder = std::to_string(threads);
    (void)train(tiny_recipe("threads: " + folder), folder);
    expect_same(folder, "one", 8);
  }
  set_num_threads(1);
}

TEST(ARun, GivesTheSameBitsWhereItsLoopsHaveManyBlocks) {
  const auto state_after = [](int threads, const std::string& recompute) {
    set_num_threads(threads);
    SingleRank communicator;
    sluice::Run run(tiny_recipe(R"(
model:
  hidden_size: 64
  dropout: 0.1
  attention: {num_heads: 4, num_kv_heads: 2}
  experts: {intermediate_size: 48}
balance: [{type: bip}, {type: global_aux_loss}, {type: router_z_loss}]
data: {sequence_length: 256}
train: {steps: 2, global_batch: 2048 tokens, recompute: )" +
                                recompute + "}"),
                    communicator);
    while (!run.finished()) EXPECT_TRUE(run.step().applied);
    return state_of(run);
  };
  const StateDict expected = state_after(1, "none");
  for (const auto& [threads, recompute] :
       {std::pair(2, "none"), std::pair(3, "none"), std::pair(1, "experts"), std::pair(3, "all")}) {
    EXPECT_THAT(differing_arrays(state_after(threads, recompute), expected), IsEmpty())
        << threads << " threads, recompute: " << recompute;
  }
  set_num_threads(1);
}

TEST_F(TrainerTest, GivesTheSameBitsWithRecomputation) {
  (void)train(tiny_recipe("model: {dropout: 0.1}"), "plain");
  for (const std::string what : {"experts", "all"}) {
    (void)train(tiny_recipe("model: {dropout: 0.1}\ntrain: {recompute: " + what + "}"), what);
    expect_same(what, "plain", 8);
  }
}

TEST_F(TrainerTest, IsNotChangedByEvaluatingSavingOrLogging) {
  (void)train(tiny_recipe("balance: {type: bip}"), "often");
  (void)train(tiny_recipe("balance: {type: bip}\ntrain: {evaluate: {every: never}}\n"
                          "checkpoint: {every: 100, asynchronous: false}\nlog: {sinks: []}\n"
                          "data: {prefetch: 0}"),
              "seldom");
  StateDict often = state_in("often", 8);
  StateDict seldom = state_in("seldom", 8);
  for (StateDict* state : {&often, &seldom}) {
    state->erase("run/best_eval_loss");
    state->erase("run/best_eval_step");
    // What the next records need; nothing else reads it.
    std::erase_if(*state, [](const auto& item) { return item.first.starts_with("run/watch/"); });
  }
  EXPECT_THAT(differing_arrays(seldom, often), IsEmpty());
}

// --- resuming ------------------------------------------------------------------------------------

/// Two corpora of a few hundred tokens: eight steps of 128 tokens go through both more than once.
constexpr const char* kShortCorpora = R"(
data:
  sources:
    - {type: synthetic, pattern: markov, documents: 8, min_length: 40, max_length: 60, alphabet: 24}
    - {type: synthetic, pattern: copy, documents: 8, min_length: 20, max_length: 30, alphabet: 24}
)";

TEST_F(TrainerTest, ResumesFromACheckpointThatKnowsNothingOfRoutingRecords) {
  const Recipe recipe = tiny_recipe();
  (void)train(recipe, "whole");
  cut("whole", 4, "cut");
  Checkpoint old = read_checkpoint(checkpoint("cut", 4));
  EXPECT_GT(std::erase_if(old.state,
                          [](const auto& item) { return item.first.starts_with("run/watch/"); }),
            0u);
  write_checkpoint(real_file_system(), checkpoint("cut", 4), old);
  (void)train(recipe, "cut");
  StateDict resumed = state_in("cut", 8);
  StateDict whole = state_in("whole", 8);
  for (StateDict* state : {&resumed, &whole}) {
    std::erase_if(*state, [](const auto& item) { return item.first.starts_with("run/watch/"); });
  }
  EXPECT_THAT(differing_arrays(resumed, whole), IsEmpty());
}

struct ResumeCase {
  std::string name;
  std::string changes;

  friend void PrintTo(const ResumeCase& test, std::ostream* out) { *out << test.changes; }
};

class ResumeTest : public TrainerTest, public ::testing::WithParamInterface<ResumeCase> {};

TEST_P(ResumeTest, ContinuesBitForBit) {
  const Recipe recipe = tiny_recipe(GetParam().changes);
  (void)train(recipe, "whole");
  cut("whole", 4, "cut");
  (void)train(recipe, "cut");
  EXPECT_EQ(reporter_.first_step, 4);
  expect_same("cut", "whole", 8);
}

INSTANTIATE_TEST_SUITE_P(
    EveryKindOfState, ResumeTest,
    ::testing::Values(
        ResumeCase{"None", "balance: {type: none}"},
        ResumeCase{"LossFreeBias", "balance: {type: loss_free_bias}"},
        ResumeCase{"Bip", "balance: {type: bip}"},
        ResumeCase{"GlobalAuxLoss", "balance: {type: global_aux_loss}"},
        ResumeCase{"PreviousCounts", "balance: {type: global_aux_loss, counts: previous}"},
        ResumeCase{"Cosine",
                   "optim: {learning_rate: {type: cosine, peak: 1.0e-2, warmup: 3 steps}}"},
        // The warm-up ends and the decay begins between two steps, on both sides of the cut.
        ResumeCase{"StableInTokens",
                   "optim: {learning_rate: {type: wsd, peak: 1.0e-2, warmup: 200 tokens, "
                   "decay: 400 tokens}}"},
        ResumeCase{"MicroBatches", "balance: {type: bip}\ntrain: {micro_batch: 32 tokens}"},
        ResumeCase{"CountedMicroBatches",
                   "balance: [{type: global_aux_loss}, {type: router_z_loss}]\n"
                   "train: {micro_batch: 64 tokens}"},
        ResumeCase{"RandomNumbers",
                   "model: {dropout: 0.1, experts: {router: {type: noisy_top_k, jitter: 0.1}}}"},
        ResumeCase{"EndOfAnEpoch", kShortCorpora},
        // Loads and looks at the experts that straddle the cut, and an alarm that waits there.
        ResumeCase{"RoutingRecords",
                   "log: {every: 3 steps, sinks: [jsonl, routing], loads: 3 steps, experts: 3 "
                   "steps,\n  alarms: {max_violation: 0.01, patience: 3, fluctuation: 0.0}}\n"
                   "train: {evaluate: {every: 2 steps}}"}),
    [](const auto& test) { return test.param.name; });

TEST(ARun, ContinuesBitForBitFromEveryStep) {
  const Recipe recipe = tiny_recipe(std::string(kShortCorpora) + "balance: {type: bip}");
  SingleRank communicator;
  sluice::Run whole(recipe, communicator);
  auto resumed = std::make_unique<sluice::Run>(recipe, communicator);
  while (!whole.finished()) {
    (void)whole.step();
    (void)resumed->step();
    resumed = std::make_unique<sluice::Run>(recipe, communicator, resumed->checkpoint(std::nullopt),
                                            "a checkpoint");
    EXPECT_THAT(differing_arrays(state_of(*resumed), state_of(whole)), IsEmpty())
        << "after step " << whole.state().step;
  }
  EXPECT_GT(whole.progress().epochs, 1.0);
}

/// The gradients of steps `first` to `last`, counted from 1, overflow: so heavy is their z-loss.
Recipe poisoned_recipe(int64_t first, int64_t last, const std::string& max_time = "none") {
  return tiny_recipe(fmt::format(R"(
balance: {{type: bip}}
train:
  micro_batch: 64 tokens
  max_time: {}
  head_z_loss:
    type: piecewise
    mode: step
    points: [{{at: 0, value: 0}}, {{at: {}, value: 1.0e+38}}, {{at: {}, value: 0}}]
checkpoint: {{every: 3}}
)",
                                 max_time, first - 1, last));
}
/// Stops after one step and saves.
constexpr const char* kOneStep = "0.000001 s";

TEST_F(TrainerTest, ContinuesBitForBitAcrossSkippedUpdates) {
  const Recipe recipe = poisoned_recipe(4, 5);
  (void)train(recipe, "whole");
  EXPECT_THAT(state_in("whole", 8).at("run/skipped").values<int64_t>(), ElementsAre(2));

  cut("whole", 3, "amid");
  (void)train(poisoned_recipe(4, 5, kOneStep), "amid");
  const StateDict amid = state_in("amid", 4);
  EXPECT_THAT(amid.at("run/skipped_in_row").values<int64_t>(), ElementsAre(1));
  EXPECT_THAT(amid.at("run/losses").values<double>(), SizeIs(3));
  EXPECT_THAT(differing_arrays(amid, state_in("whole", 3)),
              Each(AnyOf(StartsWith("run/"), StartsWith("data/"))));

  cut("whole", 3, "before");
  cut("whole", 6, "after");
  for (const std::string folder : {"before", "amid", "after"}) {
    (void)train(recipe, folder);
    expect_same(folder, "whole", 8);
  }
}

TEST_F(TrainerTest, CountsUpdatesInARowThroughAResume) {
  const Recipe recipe = poisoned_recipe(2, 4, kOneStep);
  for (int64_t step = 1; step <= 3; ++step) {
    EXPECT_EQ(train(recipe, "run").reason, StopReason::out_of_time);
  }
  EXPECT_THAT(error_of(recipe, "run"), HasSubstr("step 4: 3 updates in a row were not finite"));
}

TEST_F(TrainerTest, GoesOnWithALongerRun) {
  (void)train(tiny_recipe("train: {steps: 4}"), "run");
  const RunSummary summary = train(tiny_recipe("train: {steps: 6}"), "run");
  EXPECT_EQ(reporter_.first_step, 4);
  EXPECT_EQ(summary.step, 6);
}

TEST_F(TrainerTest, DoesNothingMoreToACompleteRun) {
  (void)train(tiny_recipe(), "run");
  const auto before = metrics_of("run");
  const RunSummary summary = train(tiny_recipe(), "run");
  EXPECT_EQ(summary.reason, StopReason::complete);
  EXPECT_EQ(summary.checkpoint, checkpoint("run", 8));
  EXPECT_EQ(metrics_of("run"), before);
}

TEST_F(TrainerTest, SkipsADamagedCheckpointAndNamesIt) {
  (void)train(tiny_recipe(), "run");
  std::filesystem::resize_file(checkpoint("run", 8), 1000);
  (void)train(tiny_recipe(), "run");
  EXPECT_EQ(reporter_.first_step, 4);
  EXPECT_THAT(reporter_.notes, ElementsAre(HasSubstr(checkpoint_name(8))));
}

TEST_F(TrainerTest, StopsWhenNoCheckpointIsWhole) {
  (void)train(tiny_recipe(), "run");
  for (const int64_t step : {4, 8}) std::filesystem::resize_file(checkpoint("run", step), 1000);
  EXPECT_THAT(error_of(tiny_recipe(), "run"), HasSubstr("no checkpoint is whole"));
  EXPECT_EQ(std::filesystem::file_size(checkpoint("run", 8)), 1000u);
}

TEST_F(TrainerTest, RefusesAChangedRecipeWithTheDifferingKeys) {
  (void)train(tiny_recipe(), "run");
  EXPECT_THAT(error_of(tiny_recipe("seed: 8\noptim: {weight_decay: 0.5}"), "run"),
              AllOf(HasSubstr("seed: 7 there, 8 here"),
                    HasSubstr("optim.weight_decay: 0.1 there, 0.5 here")));
}

TEST_F(TrainerTest, RefusesChangedData) {
  (void)train(tiny_recipe(), "run");
  // The recipe names the same file, whose content is another one.
  std::filesystem::create_directories(scratch_.path() / "text");
  const std::string path = (scratch_.path() / "text" / "a.txt").string();
  const auto with_text = [&](std::string_view text) {
    write_file_atomically(real_file_system(), path, bytes_of(text), raise_as<DataError>);
    return tiny_recipe("data: {sources: [{path: " + path + "}]}\ntrain: {steps: 4}");
  };
  const std::string first(2000, 'a');
  (void)train(with_text(first), "text_run");
  EXPECT_THAT(error_of(with_text(first + "b"), "text_run"), HasSubstr("data"));
}

TEST_F(TrainerTest, NeverResumesOverAnEarlierRun) {
  (void)train(tiny_recipe(), "run");
  EXPECT_THAT(error_of(tiny_recipe(), "run", "never"), HasSubstr("holds 2 checkpoints"));
}

TEST_F(TrainerTest, BranchesOffFromAFileInAnotherFolder) {
  (void)train(tiny_recipe(), "whole");
  (void)train(tiny_recipe(), "branch", checkpoint("whole", 4).string());
  EXPECT_EQ(reporter_.first_step, 4);
  EXPECT_THAT(differing_arrays(state_in("branch", 8), state_in("whole", 8)), IsEmpty());
}

TEST_F(TrainerTest, DoesNotGoBackBehindLaterCheckpoints) {
  (void)train(tiny_recipe(), "run");
  EXPECT_THAT(error_of(tiny_recipe(), "run", checkpoint("run", 4).string()),
              HasSubstr("holds a later checkpoint, of step 8"));
}

// --- starting from weights -----------------------------------------------------------------------

TEST_F(TrainerTest, StartsANewRunFromTheWeightsOfAnother) {
  (void)train(tiny_recipe(), "first");
  const std::string from = checkpoint("first", 8).string();
  SingleRank communicator;
  sluice::Run run(tiny_recipe("seed: 9\ntrain: {init_from: " + from + "}"), communicator);
  EXPECT_EQ(run.state().step, 0);
  const StateDict expected = state_in("first", 8);
  for (const auto& [name, array] : state_of(run)) {
    if (name.starts_with("model/")) {
      EXPECT_EQ(array, expected.at(name)) << name;
    }
  }
}

TEST_F(TrainerTest, RefusesWeightsOfAnotherTokenizer) {
  (void)train(tiny_recipe(), "first");
  const std::string from = checkpoint("first", 8).string();
  EXPECT_THAT(error_of(tiny_recipe("data: {tokenizer: {type: sentencepiece}}\n"
                                   "train: {init_from: " +
                                   from + "}"),
                       "second"),
              HasSubstr("was trained with tokenizer bytes, data.tokenizer is sentencepiece"));
}

// --- stopping ------------------------------------------------------------------------------------

TEST_F(TrainerTest, SavesAndStopsWhenTheTimeIsOver) {
  const RunSummary summary = train(tiny_recipe("train: {max_time: 0.000001 s}"), "run");
  EXPECT_EQ(summary.reason, StopReason::out_of_time);
  EXPECT_EQ(summary.step, 1);
  EXPECT_EQ(summary.checkpoint, checkpoint("run", 1));
}

TEST(SignalWatch, NotesASignalAndPutsTheOldHandlerBack) {
  struct sigaction before {};
  sigaction(SIGTERM, nullptr, &before);
  {
    const SignalWatch watch;
    EXPECT_EQ(watch.received(), 0);
    std::raise(SIGTERM);
    EXPECT_EQ(watch.received(), SIGTERM);
  }
  struct sigaction after {};
  sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(after.sa_handler, before.sa_handler);
}

TEST_F(TrainerTest, GivesUpAfterTooManyUpdatesThatAreNotFinite) {
  // A learning rate beyond all measure: the first update blows the weights up.
  const Recipe recipe = tiny_recipe(
      "optim: {learning_rate: 1.0e+30, clip_norm: none}\n"
      "train: {evaluate: {every: never}}\ncheckpoint: {every: 1}");
  try {
    (void)train(recipe, "run");
    FAIL() << "no error";
  } catch (const NumericError& error) {
    EXPECT_THAT(error.what(), HasSubstr("3 updates in a row were not finite"));
  }
  EXPECT_NO_THROW((void)read_checkpoint(checkpoint("run", 1)));
}

// --- when things are due -------------------------------------------------------------------------

TEST(IsDue, CountsInTheUnitOfTheDuration) {
  const auto at = [](int64_t step) { return Progress{.step = step, .tokens = 100 * step}; };
  const Duration three_steps{3, DurationUnit::steps};
  EXPECT_TRUE(is_due(three_steps, at(2), at(3)));
  EXPECT_FALSE(is_due(three_steps, at(3), at(4)));
  const Duration tokens{250, DurationUnit::tokens};
  EXPECT_FALSE(is_due(tokens, at(1), at(2)));
  EXPECT_TRUE(is_due(tokens, at(2), at(3)));
  EXPECT_FALSE(is_due({0, DurationUnit::steps}, at(2), at(3)));
}

}  // namespace
}  // namespace sluice
