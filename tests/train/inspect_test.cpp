#include "train/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "train/inspect_text.h"
#include "train/trainer.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ScratchFolder;
using testing::tiny_recipe;

class InspectTest : public ::testing::Test {
 protected:
  /// 8 steps, checkpoints after 4 and 8.
  std::filesystem::path train(const Recipe& recipe = tiny_recipe()) {
    testing::RecordingReporter reporter;
    Trainer trainer(recipe, {.folder = scratch_ / "run"}, reporter);
    (void)trainer.run();
    return scratch_ / "run";
  }
  [[nodiscard]] std::filesystem::path checkpoint(int64_t step) const {
    return scratch_ / "run" / "checkpoints" / checkpoint_name(step);
  }

  ScratchFolder scratch_;
};

TEST_F(InspectTest, CountsTheParametersOfACheckpoint) {
  (void)train();
  const Inspection found = inspect(checkpoint(8), CheckpointChoice::newest);
  EXPECT_FALSE(found.run.has_value());
  ASSERT_TRUE(found.checkpoint.has_value());
  const CheckpointInspection& result = *found.checkpoint;
  Pool pool;
  const Recipe recipe = tiny_recipe();
  const auto model = build_model(recipe, pool, 257);
  EXPECT_EQ(result.parameters.total, count_parameters(recipe, *model).total);
  EXPECT_EQ(result.parameters.active, count_parameters(recipe, *model).active);
  ASSERT_EQ(result.table.size(), model->parameters().size());
  EXPECT_EQ(result.table[0].name, "embedding.weight");
  EXPECT_THAT(result.table[0].dims, ElementsAre(257, 16));
  EXPECT_EQ(result.vocab_size, 257);
  EXPECT_EQ(result.pattern, "(AE)x2");
  EXPECT_THAT(result.experts, ElementsAre(4, 4));
}

TEST_F(InspectTest, TellsWhereTheRunStood) {
  (void)train();
  const CheckpointInspection result = *inspect(checkpoint(4), CheckpointChoice::newest).checkpoint;
  EXPECT_EQ(result.meta.step, 4);
  EXPECT_EQ(result.meta.tokens, 4 * 128);
  EXPECT_EQ(result.total_steps, 8);
  EXPECT_EQ(result.best_eval_step, 4);
  EXPECT_EQ(result.best_eval_loss, result.meta.eval_loss);
  EXPECT_GT(result.seconds, 0.0);
  ASSERT_EQ(result.loads.size(), 2u);
  EXPECT_GT(result.loads[0].avg_max_vio, 0.0);
  ASSERT_TRUE(result.alarms.has_value());
  EXPECT_THAT(*result.alarms, IsEmpty());
}

TEST_F(InspectTest, TellsOfAlarms) {
  (void)train(tiny_recipe("log: {alarms: {logit_norm: 0}}"));
  const Inspection found = inspect(scratch_ / "run", CheckpointChoice::newest);
  EXPECT_THAT(found.checkpoint->alarms.value(), ElementsAre("logit_norm"));
  ASSERT_EQ(found.run->alarms.size(), 1u);
  EXPECT_EQ(found.run->alarms[0].name, "logit_norm");
  EXPECT_EQ(found.run->alarms[0].step, 1);
  EXPECT_TRUE(found.run->alarms[0].layer.has_value());
  EXPECT_THAT(inspection_text(found), HasSubstr("health      alarms on: logit_norm\n"));
}

TEST_F(InspectTest, SummarisesTheStateOfTheBalancers) {
  (void)train();
  const CheckpointInspection result = *inspect(checkpoint(8), CheckpointChoice::newest).checkpoint;
  EXPECT_THAT(result.balance, ElementsAre("loss_free_bias"));
  ASSERT_EQ(result.balance_state.size(), 1u);
  EXPECT_EQ(result.balance_state[0].layers, 2);
  EXPECT_THAT(result.balance_state[0].dims, ElementsAre(4));
  EXPECT_LT(result.balance_state[0].least, result.balance_state[0].greatest);
}

TEST_F(InspectTest, ListsTheCheckpointsOfARunAndTheLastLoads) {
  const Inspection found = inspect(train(), CheckpointChoice::newest);
  ASSERT_TRUE(found.run.has_value());
  ASSERT_EQ(found.run->files.size(), 2u);
  EXPECT_EQ(found.run->files[1].step, 8);
  EXPECT_THAT(found.run->files[1].problem, IsEmpty());
  EXPECT_TRUE(found.run->files[1].eval_loss.has_value());
  EXPECT_EQ(found.checkpoint->meta.step, 8);
  ASSERT_TRUE(found.run->last_step.has_value());
  EXPECT_EQ(found.run->last_step->step, 8);
  ASSERT_EQ(found.run->last_step->counts.size(), 2u);
  EXPECT_EQ(found.run->last_step->counts[0].size(), 4u);
}

TEST_F(InspectTest, PassesOverARecordThatWasNotFinished) {
  const auto run = train();
  std::ofstream(run / "metrics.jsonl", std::ios::app) << R"({"step":9,"load/experts/0":[1,)";
  EXPECT_EQ(inspect(run, CheckpointChoice::newest).run->last_step->step, 8);
}

TEST_F(InspectTest, NamesDamagedCheckpointsAndLooksAtTheNewestWholeOne) {
  const auto run = train();
  std::filesystem::resize_file(checkpoint(8), 1000);
  const Inspection found = inspect(run, CheckpointChoice::newest);
  EXPECT_THAT(found.run->files[0].problem, IsEmpty());
  EXPECT_THAT(found.run->files[1].problem, HasSubstr("step_00000008.h5: "));
  EXPECT_EQ(found.checkpoint->meta.step, 4);
  EXPECT_THAT(inspection_text(found), HasSubstr("2 checkpoints, 1 of them damaged"));
  EXPECT_THROW((void)inspect(checkpoint(8), CheckpointChoice::newest), CheckpointError);
}

TEST_F(InspectTest, ShowsARunWithoutAWholeCheckpoint) {
  const auto run = train();
  for (const int64_t step : {4, 8}) std::filesystem::resize_file(checkpoint(step), 1000);
  const Inspection found = inspect(run, CheckpointChoice::newest);
  EXPECT_FALSE(found.checkpoint.has_value());
  EXPECT_THAT(inspection_text(found), HasSubstr("2 checkpoints, 2 of them damaged"));
}

TEST_F(InspectTest, LooksAtADenseModel) {
  const Inspection found = inspect(train(testing::tiny_dense_recipe()), CheckpointChoice::newest);
  EXPECT_THAT(found.checkpoint->experts, IsEmpty());
  EXPECT_EQ(found.checkpoint->parameters.active, found.checkpoint->parameters.total);
  EXPECT_FALSE(found.run->last_step.has_value());
}

TEST_F(InspectTest, RefusesWhatIsNoRun) {
  EXPECT_THROW((void)inspect(scratch_.path(), CheckpointChoice::newest), ConfigError);
  EXPECT_THROW((void)inspect(scratch_ / "nothing", CheckpointChoice::newest), ConfigError);
}

TEST_F(InspectTest, GivesTheSameFactsAsJson) {
  const auto json = inspection_json(inspect(train(), CheckpointChoice::newest));
  EXPECT_EQ(json.at("run").at("checkpoints").size(), 2u);
  EXPECT_EQ(json.at("run").at("last_step").at("loads").size(), 2u);
  const auto& checkpoint = json.at("checkpoint");
  EXPECT_EQ(checkpoint.at("step"), 8);
  EXPECT_EQ(checkpoint.at("model").at("experts"), (std::vector<int64_t>{4, 4}));
  EXPECT_EQ(checkpoint.at("parameter_table").at(0).at("shape"), (std::vector<int64_t>{257, 16}));
  EXPECT_EQ(checkpoint.at("balance").at("methods").at(0), "loss_free_bias");
  EXPECT_EQ(checkpoint.at("loads").size(), 2u);
}

// --- the text ------------------------------------------------------------------------------------

Inspection example() {
  CheckpointInspection checkpoint{
      .path = "runs/a/checkpoints/step_00000200.h5",
      .bytes = 3 << 20,
      .meta = {.step = 200,
               .tokens = 1638400,
               .eval_loss = 3.25,
               .tokenizer_kind = "sentencepiece",
               .build = "gcc 12 avx2"},
      .total_steps = 600,
      .seconds = 95.2,
      .skipped = 1,
      .best_eval_loss = 3.125,
      .best_eval_step = 100,
      .pattern = "(AE)x2",
      .hidden_size = 256,
      .vocab_size = 4096,
      .parameters = {.total = 1234567,
                     .trainable = 1234000,
                     .active = 456789,
                     .experts = 900000,
                     .embedding = 100000},
      .table = {{"embedding.weight", {4096, 256}, 1048576, false}, {"head", {2, 3}, 6, true}},
      .balance = {"loss_free_bias", "router_z_loss"},
      .balance_state = {{"loss_free_bias/bias", 2, {16}, -0.03125, 0.5}},
      .experts = {16, 16},
      .loads = {{.avg_max_vio = 0.25, .sup_max_vio = 1.5, .dead_experts = 1},
                {.avg_max_vio = 0.75, .sup_max_vio = 2.0, .dead_experts = 0}},
      .alarms = {{"dead_experts", "dropped"}}};
  RunInspection run{.folder = "runs/a",
                    .files = {{"runs/a/checkpoints/step_00000100.h5", 100, 3 << 20, 3.125, ""},
                              {"runs/a/checkpoints/step_00000150.h5", 150, 5, {}, "x.h5: cut off"},
                              {"runs/a/checkpoints/step_00000200.h5", 200, 3 << 20, 3.25, ""}},
                    .last_step = LastStep{203, {{4, 4, 0, 0}, {3, 3, 1, 1}}},
                    .alarms = {{110, "dropped", 1, "balance more"},
                               {120, "dead_experts", 0, "balance more"},
                               {150, "loss_deviation", {}, "look at the data"},
                               {190, "dropped", 0, "balance more"}}};
  return {std::move(run), std::move(checkpoint)};
}

TEST(InspectionText, ReadsLikeThis) {
  EXPECT_EQ(inspection_text(example(), {.parameters = true}),
            R"(run         runs/a: 3 checkpoints, 1 of them damaged
  whole     step_00000100.h5  3.0 MiB, held-out loss 3.1250, the best
  damaged   x.h5: cut off
  whole     step_00000200.h5  3.0 MiB, held-out loss 3.2500

checkpoint  runs/a/checkpoints/step_00000200.h5, 3.0 MiB
step        200 of 600, 1,638,400 tokens, 1m 35s of training, 1 update skipped
held out    loss 3.2500 nats per token here; best 3.1250 after step 100
model       (AE)x2, hidden size 256, vocabulary 4,096 (sentencepiece)
parameters  1,234,567 in all, 456,789 active per token
            900,000 in routed experts, 100,000 in embeddings, 567 frozen
balance     loss_free_bias + router_z_loss
            loss_free_bias/bias [16] from -0.03125 to 0.5, 2 layers
loads       maxvio 0.500 on average over steps and layers, 2.000 at most; 1 of 32 experts dead
health      alarms on: dead_experts, dropped
last loads  of step 203, as recorded:
            layer 0: maxvio 1.000, largest share 0.500, 2.0 effective experts of 4
            layer 1: maxvio 0.500, largest share 0.375, 3.5 effective experts of 4
alarms      4 reported, the last:
            step 120: dead_experts in expert layer 0; balance more
            step 150: loss_deviation; look at the data
            step 190: dropped in expert layer 0; balance more
written by  gcc 12 avx2

embedding.weight       1,048,576  [4096, 256]  frozen
head                           6  [2, 3]
)");
}

TEST(InspectionText, IsShortForADenseModelThatWasNotEvaluated) {
  Inspection found = example();
  found.run.reset();
  CheckpointInspection& checkpoint = *found.checkpoint;
  checkpoint.meta.eval_loss.reset();
  checkpoint.best_eval_loss.reset();
  checkpoint.total_steps.reset();
  checkpoint.skipped = 0;
  checkpoint.parameters.trainable = checkpoint.parameters.total;
  checkpoint.experts.clear();
  checkpoint.alarms.reset();
  EXPECT_EQ(inspection_text(found),
            R"(checkpoint  runs/a/checkpoints/step_00000200.h5, 3.0 MiB
step        200, 1,638,400 tokens, 1m 35s of training
held out    not evaluated here
model       (AE)x2, hidden size 256, vocabulary 4,096 (sentencepiece)
parameters  1,234,567 in all, 456,789 active per token
            900,000 in routed experts, 100,000 in embeddings
written by  gcc 12 avx2
)");
}

}  // namespace
}  // namespace sluice
