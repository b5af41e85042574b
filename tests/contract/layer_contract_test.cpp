// What every mixer and feed-forward must do, by standing in mixers.def or ffns.def: have the right
// gradients, keep packed documents apart, decode as it evaluates, and give the same bits on any number
// of threads and with recomputation. What it must do in a run is in method_in_run_test.cpp, what it must
// learn in synthetic_tasks_test.cpp.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "optim/optimizer.h"
#include "tests/layers/layer_checks.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::plain_session;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;

class EveryLayer : public ::testing::TestWithParam<std::string> {
 protected:
  /// The layer with its default settings as letter Z.
  [[nodiscard]] static ModelConfig config(const std::string& pattern,
                                          const std::string& dtype = "f32") {
    ModelConfig result = tiny_config("AFE", dtype);
    result.hidden_size = 64;
    result.init.std = 0.1;
    result.pattern = pattern;
    std::unique_ptr<Configurable> settings;
    for (const MixerEntry* entry : mixer_table()) {
      if (entry->name == GetParam()) settings = entry->make_config();
    }
    for (const FeedForwardEntry* entry : feed_forward_table()) {
      if (entry->name == GetParam()) settings = entry->make_config();
    }
    result.variants = {{"Z", {GetParam(), std::shared_ptr<Configurable>(std::move(settings))}}};
    EXPECT_EQ(result.check(), "");
    return result;
  }

  Pool pool_;
};

TEST_P(EveryLayer, GradientsOfAWholeModelAgreeWithDifferences) {
  testing_support::expect_model_gradients(config("FZ", "f64"));
}

TEST_P(EveryLayer, ThreadsAndRecomputationChangeNoBit) {
  testing_support::expect_same_on_any_threads(config("FZE"));
  testing_support::expect_recomputation_changes_no_bit(config("FZE"));
}

TEST_P(EveryLayer, DocumentsOfAPackAreTheSameAlone) {
  testing_support::expect_documents_apart(config("ZFZ"));
}

TEST_P(EveryLayer, SeesNoLaterTokenInEvaluation) { testing_support::expect_causal(config("ZFZ")); }

TEST_P(EveryLayer, DecodesAsItEvaluates) {
  testing_support::expect_decoding_equals_forward(config("ZFZ"), 5e-5);
  testing_support::expect_decoding_equals_forward(config("ZFZ", "f64"), 1e-11);
}

TEST_P(EveryLayer, LearnsABatchByHeart) {
  const Model model(pool_, config("AZFZ"), 9);
  RoutingSession session = plain_session(model);
  const TinyBatch batch = tiny_batch(pool_, {{24}, {24}});
  testing_support::zero_grads(model, pool_);
  auto settings = optimizer_choices().front().make_config();
  testing::set_fields(*settings, {{"learning_rate", 3e-3}});
  const Tagged choice{std::string(optimizer_choices().front().name),
                      std::shared_ptr<Configurable>(std::move(settings))};
  const std::vector<Parameter*> parameters = model.parameters();
  const auto optimizer = make_optimizer(choice, parameters, pool_);
  double before = 0.0;
  double after = 0.0;
  for (int64_t step = 0; step < 60; ++step) {
    Tape tape(pool_);
    testing_support::zero_grads(model, pool_);
    const auto loss =
        model.loss(training_context(tape, batch, session), batch.tokens, batch.targets);
    tape.backward(loss.total);
    if (step == 0) before = loss.language_model;
    after = loss.language_model;
    Progress progress;
    progress.step = step;
    optimizer->step(progress, 1.0);
  }
  EXPECT_LT(after, 0.25 * before);
}

TEST_P(EveryLayer, IsPlannedOnShapesAlone) {
  Pool shapes(Pool::Mode::shapes_only);
  const Model model(shapes, config("AZE"), 1);
  RoutingSession session = plain_session(model);
  const TinyBatch batch = tiny_batch(shapes, {{9, 1, 14}, {6}});
  testing_support::zero_grads(model, shapes);
  CostMeter meter;
  Tape tape(shapes, &meter);
  const auto loss = model.loss(training_context(tape, batch, session), batch.tokens, batch.targets);
  tape.backward(loss.total);
  EXPECT_GT(meter.useful_flops(), 0.0);
}

std::vector<std::string> layer_names() {
  std::vector<std::string> names;
  for (const MixerEntry* entry : mixer_table()) names.emplace_back(entry->name);
  for (const FeedForwardEntry* entry : feed_forward_table()) names.emplace_back(entry->name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(DefLists, EveryLayer, ::testing::ValuesIn(layer_names()),
                         [](const auto& which) { return which.param; });

TEST(LayerTables, NamesAndSymbolsAreDistinct) {
  std::vector<std::string> names = layer_names();
  std::set<char> symbols;
  size_t lettered = 0;
  const auto count = [&](char symbol) {
    if (symbol == kNoSymbol) return;
    ++lettered;
    symbols.insert(symbol);
  };
  for (const MixerEntry* entry : mixer_table()) count(entry->symbol);
  for (const FeedForwardEntry* entry : feed_forward_table()) count(entry->symbol);
  EXPECT_EQ(symbols.size(), lettered);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
}

}  // namespace
}  // namespace sluice
