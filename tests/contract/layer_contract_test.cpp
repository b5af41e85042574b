// What every mixer and feed-forward must do, by standing in mixers.def or ffns.def: have the right
// gradients, keep packed documents apart, decode as it evaluates, and give the same bits on any number
// of threads and with recomputation. What it must do in a run is in method_in_run_test.cpp.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "autograd/support/parallel.h"
#include "optim/optimizer.h"
#include "tests/layers/model_gradients.h"
#include "tests/support/set_fields.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::plain_session;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;

constexpr int64_t kHidden = 64;

class EveryLayer : public ::testing::TestWithParam<std::string> {
 protected:
  /// The layer with its default settings as letter Z.
  [[nodiscard]] static ModelConfig config(const std::string& pattern,
                                          const std::string& dtype = "f32") {
    ModelConfig result = tiny_config("AFE", dtype);
    result.hidden_size = kHidden;
    result.init.std = 0.1;
    auto modalities = std::make_shared<ModalitiesConfig>();
    modalities->names = {"text", "image"};
    modalities->first_tokens = {0, 40};
    result.modalities = std::move(modalities);
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

const std::vector<std::vector<int64_t>> kPack = {{9, 1, 14}, {6}};

TEST_P(EveryLayer, GradientsOfAWholeModelAgreeWithDifferences) {
  testing_support::expect_model_gradients(config("FZ", "f64"));
}

TEST_P(EveryLayer, ThreadsAndRecomputationChangeNoBit) {
  std::vector<Tensor> first;
  const Model model(pool_, config("FZE"), 3);
  for (const Recompute recompute : {Recompute::none, Recompute::all}) {
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      RoutingSession session = plain_session(model);
      const TinyBatch batch = tiny_batch(pool_, kPack);
      testing_support::zero_grads(model, pool_);
      Tape tape(pool_);
      const auto context = training_context(tape, batch, session, recompute);
      tape.backward(model.loss(context, batch.tokens, batch.targets).total);
      std::vector<Parameter*> parameters = model.parameters();
      std::erase_if(parameters, [](const Parameter* parameter) { return !parameter->trainable; });
      if (first.empty()) {
        for (const Parameter* parameter : parameters) {
          Tensor copy = Tensor::empty(pool_, parameter->grad.shape(), parameter->grad.dtype());
          copy.copy_from(parameter->grad);
          first.push_back(copy);
        }
      }
      for (size_t i = 0; i < parameters.size(); ++i) {
        EXPECT_TRUE(same_bits(parameters[i]->grad, first[i]))
            << parameters[i]->name << " on " << threads << " threads";
      }
    }
  }
  set_num_threads(1);
}

/// Hidden states of a pass in evaluation.
Tensor evaluate(Pool& pool, const Model& model, const TinyBatch& batch, const Tensor& tokens) {
  RoutingSession session = plain_session(model);
  session.begin_evaluation();
  Tape tape(pool);
  const NoGrad no_grad(tape);
  ForwardContext context{tape, batch.layout};
  context.routing = &session;
  return model.forward(context, tokens).hidden.detached();
}

TEST_P(EveryLayer, DocumentsOfAPackAreTheSameAlone) {
  const Model model(pool_, config("ZFZ"), 5);
  const TinyBatch packed = tiny_batch(pool_, {{9, 1, 14, 6}});
  const TinyBatch apart = tiny_batch(pool_, {{9}, {1}, {14}, {6}});
  EXPECT_TRUE(same_bits(evaluate(pool_, model, packed, packed.tokens),
                        evaluate(pool_, model, apart, packed.tokens)));
}

TEST_P(EveryLayer, DecodesAsItEvaluates) {
  for (const char* dtype : {"f64", "f32"}) {
    const Model model(pool_, config("ZFZ", dtype), 7);
    const TinyBatch batch = tiny_batch(pool_, {{37}});
    const Tensor all = evaluate(pool_, model, batch, batch.tokens);
    RoutingSession session = plain_session(model);
    session.begin_evaluation();
    Tape tape(pool_);
    DecodeState state = model.start_decoding(pool_, 37);
    int64_t first = 0;
    // A prefill in two pieces, single steps, a longer piece.
    for (const int64_t count : {5, 9, 1, 1, 1, 13, 1, 6}) {
      const SequenceLayout layout = SequenceLayout::single(pool_, count, first);
      ForwardContext context{tape, layout};
      context.routing = &session;
      const auto ids = batch.tokens.span<int32_t>().subspan(static_cast<size_t>(first),
                                                            static_cast<size_t>(count));
      const Tensor rows = model.decode(context, Tensor::of<int32_t>(pool_, {count}, ids), state);
      const double tolerance = std::string(dtype) == "f64" ? 1e-11 : 5e-5;
      for (int64_t i = 0; i < rows.numel(); ++i) {
        ASSERT_NEAR(element(rows, i), element(all, first * kHidden + i), tolerance)
            << dtype << ", token " << first + i / kHidden;
      }
      first += count;
    }
  }
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
  const TinyBatch batch = tiny_batch(shapes, kPack);
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
