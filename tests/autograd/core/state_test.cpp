#include "autograd/core/state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::Key;

// A component with one of everything.
struct Component {
  Pool pool;
  Tensor weight = Tensor::of<float>(pool, {2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6});
  Tensor ids = Tensor::of<int32_t>(pool, {2}, std::vector<int32_t>{7, 8});
  int64_t step = 9;
  double loss = 0.1;
  std::vector<int64_t> history{1, 2, 3};
  std::string word = "packed";

  void visit_state(StateVisitor& v) {
    const StateScope outer(v, "model");
    v.tensor("layers.0.weight", weight);
    const StateScope inner(v, "more");
    v.tensor("ids", ids);
    v.integer("step", step);
    v.number("loss", loss);
    v.list("history", history);
    v.text("word", word);
  }
};

StateDict saved(Component& component) {
  SaveVisitor visitor;
  component.visit_state(visitor);
  return visitor.take();
}

uint64_t hash_of(Component& component) {
  HashVisitor visitor;
  component.visit_state(visitor);
  return visitor.combined();
}

std::string message_of_load(const StateDict& state, Component& into, LoadOptions options = {}) {
  LoadVisitor visitor(state, "step_00000200.h5", std::move(options));
  into.visit_state(visitor);
  try {
    visitor.finish();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

void change(Component& other) {
  other.weight.fill_zero();
  other.ids.fill_zero();
  other.step = 0;
  other.loss = -1;
  other.history = {5};
  other.word = "";
}

TEST(State, PathsAreScopesAndNamesJoinedInOrder) {
  Component component;
  EXPECT_THAT(saved(component), ElementsAre(Key("model/layers.0.weight"), Key("model/more/history"),
                                            Key("model/more/ids"), Key("model/more/loss"),
                                            Key("model/more/step"), Key("model/more/word")));
}

TEST(State, LoadingWhatWasSavedRestoresEveryBit) {
  Component original;
  Component other;
  change(other);
  ASSERT_NE(hash_of(original), hash_of(other));
  EXPECT_EQ(message_of_load(saved(original), other), "");
  EXPECT_EQ(hash_of(original), hash_of(other));
  EXPECT_EQ(saved(original), saved(other));
  EXPECT_THAT(other.history, ElementsAre(1, 2, 3));
  EXPECT_EQ(other.word, "packed");
}

TEST(State, SavingCopiesSoThatTrainingMayGoOn) {
  Component component;
  const StateDict state = saved(component);
  component.weight.fill_zero();
  EXPECT_THAT(state.at("model/layers.0.weight").values<float>(), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(State, NamesAShapeThatDiffers) {
  Component component;
  StateDict state = saved(component);
  state["model/layers.0.weight"].dims = {3, 2};
  EXPECT_EQ(message_of_load(state, component),
            "step_00000200.h5: /model/layers.0.weight is [3, 2], the model expects [2, 3]");
}

TEST(State, NamesATypeThatDiffers) {
  Component component;
  StateDict state = saved(component);
  state["model/layers.0.weight"].type = ElementType::i32;
  EXPECT_EQ(message_of_load(state, component),
            "step_00000200.h5: /model/layers.0.weight is i32, the model expects f32");
}

TEST(State, CountsTheOtherDifferences) {
  Component component;
  StateDict state = saved(component);
  state.erase("model/more/ids");
  EXPECT_EQ(message_of_load(state, component), "step_00000200.h5: /model/more/ids is missing");
  state["model/layers.1.weight"] = {ElementType::f32, {0}, {}};
  EXPECT_EQ(message_of_load(state, component),
            "step_00000200.h5: /model/more/ids is missing (and 1 more difference)");
}

TEST(State, RefusesWhatNothingVisits) {
  Component component;
  StateDict state = saved(component);
  state["model/layers.1.weight"] = {ElementType::f32, {0, 4}, {}};
  EXPECT_EQ(message_of_load(state, component),
            "step_00000200.h5: /model/layers.1.weight [0, 4] has no place in the model");
}

TEST(State, AFilterLimitsBothSides) {
  Component original;
  Component other;
  change(other);
  StateDict state = saved(original);
  state["optim/t"] = {ElementType::i64, {}, std::vector<std::byte>(8)};
  state.erase("model/more/step");
  const LoadOptions only_weights{[](std::string_view path) { return path.ends_with(".weight"); }};
  EXPECT_EQ(message_of_load(state, other, only_weights), "");
  EXPECT_EQ(other.weight.span<float>()[5], 6.0f);
  EXPECT_EQ(other.step, 0);
}

TEST(State, HashesTellTypeShapeBytesAndNamesApart) {
  Component component;
  const uint64_t original = hash_of(component);
  component.loss = -0.0;
  const uint64_t minus_zero = hash_of(component);
  component.loss = 0.0;
  EXPECT_NE(hash_of(component), minus_zero);
  component.loss = 0.1;
  EXPECT_EQ(hash_of(component), original);
  component.weight = component.weight.reshaped({3, 2});
  EXPECT_NE(hash_of(component), original);
}

TEST(State, CountsElementsAndBytesByScope) {
  Component component;
  CountVisitor visitor;
  component.visit_state(visitor);
  EXPECT_EQ(visitor.total().arrays, 6);
  EXPECT_EQ(visitor.total().elements, 6 + 2 + 1 + 1 + 3 + 6);
  EXPECT_EQ(visitor.scopes().at("model").bytes, 24 + 8 + 8 + 8 + 24 + 6);
}

TEST(State, RefusesANameVisitedTwice) {
  SaveVisitor visitor;
  int64_t value = 0;
  visitor.integer("step", value);
  EXPECT_THROW(visitor.integer("step", value), InternalError);
}

// --- snapshots -----------------------------------------------------------------------------------

TEST(StateSnapshot, GivesBackEverythingAgainAndAgain) {
  Component component;
  const StateDict before = saved(component);
  StateSnapshot snapshot;
  snapshot.begin_saving();
  component.visit_state(snapshot);
  for (int round = 0; round < 2; ++round) {
    change(component);
    ASSERT_NE(saved(component), before);
    snapshot.begin_restoring();
    component.visit_state(snapshot);
    snapshot.finish_restoring();
    EXPECT_EQ(saved(component), before);
  }
}

TEST(StateSnapshot, ForgetsTheCopyBefore) {
  Component component;
  StateSnapshot snapshot;
  snapshot.begin_saving();
  component.visit_state(snapshot);
  change(component);
  const StateDict changed = saved(component);
  snapshot.begin_saving();
  component.visit_state(snapshot);
  component.step = 77;
  snapshot.begin_restoring();
  component.visit_state(snapshot);
  EXPECT_EQ(saved(component), changed);
}

TEST(StateSnapshot, RefusesMoreAndLessThanWasSaved) {
  Component component;
  StateSnapshot snapshot;
  snapshot.begin_saving();
  component.visit_state(snapshot);
  snapshot.begin_restoring();
  EXPECT_THROW(snapshot.finish_restoring(), InternalError);
  component.visit_state(snapshot);
  EXPECT_NO_THROW(snapshot.finish_restoring());
  EXPECT_THROW(snapshot.integer("step", component.step), InternalError);
}

TEST(StateSnapshot, RefusesAnotherSize) {
  int64_t number = 1;
  std::vector<int64_t> two = {1, 2};
  StateSnapshot snapshot;
  snapshot.begin_saving();
  snapshot.integer("number", number);
  snapshot.begin_restoring();
  const int64_t size = 2;
  EXPECT_THROW(snapshot.array<int64_t>("number", two, std::span(&size, 1)), InternalError);
}

}  // namespace
}  // namespace sluice
