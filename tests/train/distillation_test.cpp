// Training with a teacher (train.distillation).

#include "train/distillation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "tests/support/tiny_trained.h"
#include "train/plan.h"

namespace sluice {
namespace {

using ::testing::AllOf;
using testing::differing_arrays;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ScratchFolder;
using testing::state_of;
using testing::tiny_checkpoint;
using testing::tiny_recipe;

/// A trained model on disk, and recipes that learn from it.
class Distillation : public ::testing::Test {
 protected:
  void SetUp() override { write_checkpoint(real_file_system(), path(), tiny_checkpoint("", 8)); }

  [[nodiscard]] std::string path() const { return (folder_ / "teacher.h5").string(); }
  /// `settings` of train.distillation beside the teacher, and what else differs.
  [[nodiscard]] Recipe recipe(const std::string& settings, const std::string& train = "",
                              const std::string& more = "") const {
    return tiny_recipe(fmt::format("train: {{distillation: {{teacher: \"{}\", {}}}, {}}}\n{}",
                                   path(), settings, train, more));
  }

  ScratchFolder folder_;
  SingleRank communicator_;
};

TEST_F(Distillation, OfTheTeacherItselfHasNoLossAndNoGradient) {
  // What balancing has learnt does not come with the weights, nor does it teach.
  constexpr const char* kUnbalanced = "balance: {type: none}";
  write_checkpoint(real_file_system(), path(), tiny_checkpoint(kUnbalanced, 8));
  for (const char* temperature : {"1", "2.5"}) {
    sluice::Run run(recipe(fmt::format("temperature: {}, language_model: 0", temperature),
                           fmt::format("init_from: \"{}\"", path()), kUnbalanced),
                    communicator_);
    const StepResult result = run.step();
    EXPECT_EQ(result.distillation, 0.0);
    EXPECT_EQ(result.grad_norm, 0.0);
    EXPECT_GT(result.loss, 0.0) << "the language-model loss is reported all the same";
  }
}

TEST_F(Distillation, BringsPredictionsTogether) {
  sluice::Run run(recipe("language_model: 0, weight: 1", "steps: 30"), communicator_);
  double first = 0.0;
  double last = 0.0;
  while (!run.finished()) {
    const StepResult result = run.step();
    ASSERT_TRUE(result.applied) << result.problem;
    last = *result.distillation;
    if (run.state().step == 1) first = last;
  }
  EXPECT_GT(first, 0.0);
  EXPECT_LT(last, 0.7 * first);
}

TEST_F(Distillation, IsWeighed) {
  const auto first_step = [&](const std::string& settings) {
    sluice::Run run(recipe(settings), communicator_);
    return run.step();
  };
  const StepResult one = first_step("weight: 1");
  const StepResult three = first_step("weight: 3");
  EXPECT_NEAR(*three.distillation, 3.0 * *one.distillation, 1e-6 * *three.distillation);
  EXPECT_EQ(three.loss, one.loss);
  // KL at temperature tau falls with tau^2; the factor tau^2 keeps its size.
  const StepResult warm = first_step("weight: 1, temperature: 4");
  EXPECT_GT(*warm.distillation, 0.3 * *one.distillation);
  EXPECT_LT(*warm.distillation, 3.0 * *one.distillation);
}

TEST_F(Distillation, CountsTheLanguageModelAsToldWhileItsOwnWeightIsZero) {
  sluice::Run run(recipe("weight: {type: linear, from: 0, to: 1, over: 2 steps}, language_model: 0",
                         "", "balance: {type: none}"),
                  communicator_);
  EXPECT_EQ(run.step().grad_norm, 0.0);
  EXPECT_GT(run.step().grad_norm, 0.0);
}

TEST_F(Distillation, DoesNotDependOnTheMicroBatch) {
  const auto first_step = [&](const char* train) {
    sluice::Run run(recipe("weight: 1", train, "model: {dtype: f64}"), communicator_);
    return run.step();
  };
  write_checkpoint(real_file_system(), path(), tiny_checkpoint("model: {dtype: f64}", 8));
  const StepResult whole = first_step("micro_batch: 128 tokens");
  const StepResult parts = first_step("micro_batch: 32 tokens");
  EXPECT_GT(parts.micro_batches, whole.micro_batches);
  EXPECT_NEAR(*parts.distillation, *whole.distillation, 1e-12);
  EXPECT_NEAR(parts.grad_norm, whole.grad_norm, 1e-12 * whole.grad_norm);
}

TEST_F(Distillation, StopsAtItsStep) {
  sluice::Run run(recipe("stop_step: 2, language_model: 0.5"), communicator_);
  EXPECT_GT(*run.step().distillation, 0.0);
  EXPECT_GT(*run.step().distillation, 0.0);
  // From here on it is a run without a teacher.
  const Checkpoint there = run.checkpoint(std::nullopt);
  sluice::Run plain(tiny_recipe(), communicator_, there, "there");
  for (int i = 0; i < 2; ++i) {
    const StepResult alone = plain.step();
    const StepResult after = run.step();
    EXPECT_EQ(after.distillation, 0.0);
    EXPECT_EQ(after.loss, alone.loss);
    EXPECT_EQ(after.grad_norm, alone.grad_norm);
  }
  EXPECT_THAT(differing_arrays(state_of(run), state_of(plain)), IsEmpty());
}

TEST_F(Distillation, GoesOnBitForBit) {
  const Recipe learning = recipe("weight: 1, temperature: 2", "recompute: all");
  sluice::Run whole(learning, communicator_);
  for (int i = 0; i < 4; ++i) (void)whole.step();
  sluice::Run first(learning, communicator_);
  for (int i = 0; i < 2; ++i) (void)first.step();
  sluice::Run second(learning, communicator_, first.checkpoint(std::nullopt), "half");
  for (int i = 0; i < 2; ++i) (void)second.step();
  EXPECT_THAT(differing_arrays(state_of(whole), state_of(second)), IsEmpty());
}

TEST_F(Distillation, NeedsATeacherThatReadsTheSameTokens) {
  const auto refusal = [&](const Recipe& refused) {
    return error_of<ConfigError>([&] { sluice::Run run(refused, communicator_); });
  };
  EXPECT_THAT(refusal(recipe("weight: 1", "", "model: {dtype: f64}")),
              HasSubstr("in f32, the model 257 in f64"));
  EXPECT_THAT(refusal(tiny_recipe("train: {distillation: {teacher: nowhere}}")),
              AllOf(HasSubstr("train.distillation.teacher"), HasSubstr("no such file")));
  EXPECT_THAT(error_of<ConfigError>([] {
                (void)make_plan(tiny_recipe("train: {distillation: {teacher: nowhere}}"), 257, 0);
              }),
              AllOf(HasSubstr("train.distillation.teacher"), HasSubstr("no such file")));
  write_checkpoint(real_file_system(), path(),
                   tiny_checkpoint("data: {tokenizer: {type: sentencepiece, vocab_size: 512}, "
                                   "sources: [{domain: a, path: " SLUICE_SOURCE_DIR
                                   "/data/quick/heldout/prose.txt}]}"));
  EXPECT_THAT(refusal(recipe("weight: 1")), HasSubstr("tokens of another tokenizer"));
}

TEST_F(Distillation, IsNotForTwoPassesOrFurtherHeads) {
  const auto refusal = [&](const std::string& train, const std::string& more) {
    return error_of<ConfigError>([&] { (void)recipe("weight: 1", train, more); });
  };
  EXPECT_THAT(refusal("consistency: {coefficient: 1}", ""),
              HasSubstr("given beside train.consistency"));
  EXPECT_THAT(refusal("", "model: {multi_token_prediction: {num_depths: 1, pattern: AE}}"),
              HasSubstr("model.multi_token_prediction"));
}

TEST_F(Distillation, IsPlanned) {
  const Plan alone = make_plan(tiny_recipe(), 257, 0);
  const Plan taught = make_plan(recipe("weight: 1"), 257, 0);
  EXPECT_FALSE(alone.teacher.has_value());
  ASSERT_TRUE(taught.teacher.has_value());
  EXPECT_EQ(taught.teacher->checkpoint, path());
  // The teacher is a model of the same size.
  EXPECT_EQ(taught.teacher->parameters, alone.parameters.total);
  EXPECT_EQ(taught.parameters.total, alone.parameters.total);
  // Its forward pass without a loss of its own, three products of V D for logits and two gradients; then
  // four, the student's three and the teacher's logits.
  const double forward = alone.cost.direction_total(Direction::forward).flops;
  const double head = 2.0 * 257 * 16;
  EXPECT_NEAR(taught.teacher->flops_per_token,
              forward / static_cast<double>(alone.tokens) - 3.0 * head + 4.0 * head, 1e-6 * forward);
  EXPECT_DOUBLE_EQ(taught.flops_per_token(), alone.flops_per_token());
  EXPECT_DOUBLE_EQ(taught.mean_flops_per_token(),
                   alone.mean_flops_per_token() + taught.teacher->flops_per_token);
  EXPECT_EQ(taught.peak[MemoryKind::parameters], 2 * alone.peak[MemoryKind::parameters]);
  EXPECT_GT(taught.peak[MemoryKind::activations], alone.peak[MemoryKind::activations]);
}

TEST_F(Distillation, IsPlannedForTheStepsThatAskTheTeacher) {
  // 2 of 8 steps.
  const Plan some = make_plan(recipe("stop_step: 2"), 257, 0);
  const Plan all = make_plan(recipe("weight: 1"), 257, 0);
  EXPECT_DOUBLE_EQ(some.teacher->share_of_steps, 0.25);
  EXPECT_DOUBLE_EQ(some.teacher->flops_per_token, all.teacher->flops_per_token);
  EXPECT_DOUBLE_EQ(some.mean_flops_per_token(),
                   some.activity->mean.flops_per_token + 0.25 * all.teacher->flops_per_token);
  EXPECT_EQ(some.peak.total(), all.peak.total());
  EXPECT_FALSE(make_plan(recipe("weight: 0"), 257, 0).teacher.has_value());
  EXPECT_FALSE(make_plan(recipe("stop_step: 0"), 257, 0).teacher.has_value());
}

TEST_F(Distillation, CountsInTheMemoryOfARun) {
  const Plan plan = make_plan(recipe("weight: 1"), 257, 0);
  sluice::Run run(recipe("weight: 1"), communicator_);
  for (int i = 0; i < 2; ++i) (void)run.step();
  EXPECT_EQ(run.pool().peak()[MemoryKind::parameters], plan.peak[MemoryKind::parameters]);
  const auto measured = static_cast<double>(run.pool().peak().total());
  EXPECT_NEAR(static_cast<double>(plan.peak.total()), measured, 0.1 * measured);
  // What suffices without a teacher does not suffice with one.
  const int64_t budget = make_plan(tiny_recipe(), 257, 0).peak.total() + 1024;
  const std::string train = fmt::format("memory_budget: {} KiB", budget / 1024);
  EXPECT_NO_THROW((void)make_plan(tiny_recipe(fmt::format("train: {{{}}}", train)), 257, 0));
  EXPECT_THAT(
      error_of<ConfigError>([&] { (void)make_plan(recipe("weight: 1", train), 257, 0); }),
      HasSubstr("train.memory_budget: found"));
}

}  // namespace
}  // namespace sluice
