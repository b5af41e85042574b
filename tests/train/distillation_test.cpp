// Training with a teacher (train.distillation).

#include "train/distillation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_run.h"
#include "tests/support/tiny_trained.h"

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

}  // namespace
}  // namespace sluice
