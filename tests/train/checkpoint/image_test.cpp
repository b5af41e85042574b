#include "train/checkpoint/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::ScratchFolder;

/// A state with an array of several pages, small ones, an empty one and a list of any length.
struct State {
  std::vector<float> weights = std::vector<float>(700'000, 0.5f);
  std::vector<int64_t> list{1, 2, 3};
  std::vector<double> none;
  int64_t steps = 4;
  std::string text = "abc";

  void visit(StateVisitor& v) {
    {
      const StateScope scope(v, "optim");
      v.integer("steps", steps);
    }
    const StateScope scope(v, "model");
    const std::array<int64_t, 2> dims{700, 1000};
    v.array("w", std::span<float>(weights), dims);
    v.list("list", list);
    v.list("none", none);
    v.text("text", text);
  }
};

CheckpointMeta meta_of(int64_t step) {
  return {.step = step, .recipe = "seed: 1", .tokenizer_kind = "bytes", .build = "a build"};
}

std::vector<std::byte> filled(CheckpointImage& image, State& state, const CheckpointMeta& meta) {
  image.fill("test", meta, [&](StateVisitor& v) { state.visit(v); });
  const std::span<const std::byte> bytes = image.bytes();
  return {bytes.begin(), bytes.end()};
}

TEST(CheckpointImage, OfAStateIsThatOfItsCopy) {
  State state;
  SaveVisitor save;
  state.visit(save);
  const Checkpoint copy{meta_of(4), save.take()};
  CheckpointImage from_state;
  CheckpointImage from_copy;
  from_copy.fill("test", copy);
  const auto bytes = filled(from_state, state, meta_of(4));
  EXPECT_TRUE(std::ranges::equal(bytes, from_copy.bytes()));

  const ScratchFolder folder;
  write_checkpoint(real_file_system(), folder / "a.h5", from_state);
  const Checkpoint back = read_checkpoint(folder / "a.h5");
  EXPECT_EQ(back.state, copy.state);
  EXPECT_EQ(back.meta.recipe, "seed: 1");
  EXPECT_EQ(back.meta.step, 4);
}

TEST(CheckpointImage, HoldsNothingOfTheOneBefore) {
  State large;
  State small;
  small.weights.assign(700'000, -1.0f);
  small.list.clear();
  small.text = "a longer text than before";
  CheckpointImage used;
  (void)filled(used, large, {.step = 1, .eval_loss = 2.0, .recipe = std::string(9000, 'x')});
  const int64_t memory = used.memory_bytes();
  CheckpointImage fresh;
  EXPECT_EQ(filled(used, small, meta_of(2)), filled(fresh, small, meta_of(2)));
  EXPECT_EQ(used.memory_bytes(), memory);
}

TEST(CheckpointImage, GrowsWithTheState) {
  State state;
  CheckpointImage image;
  (void)filled(image, state, meta_of(1));
  state.list.assign(2'000'000, 9);
  (void)filled(image, state, meta_of(2));
  const ScratchFolder folder;
  write_checkpoint(real_file_system(), folder / "a.h5", image);
  EXPECT_EQ(read_checkpoint(folder / "a.h5").state.at("model/list").numel(), 2'000'000);
}

TEST(CheckpointImage, RefusesAStateThatNamesAnArrayTwiceOrChanges) {
  CheckpointImage image;
  int64_t one = 1;
  const auto twice = [&](StateVisitor& v) {
    v.integer("a", one);
    v.integer("a", one);
  };
  EXPECT_THROW(image.fill("test", meta_of(1), twice), InternalError);
  int visits = 0;
  std::vector<double> list{1.0};
  const auto changing = [&](StateVisitor& v) {
    v.list("a", list);
    if (visits++ == 0) list.push_back(2.0);
  };
  EXPECT_THROW(image.fill("test", meta_of(1), changing), InternalError);
}

}  // namespace
}  // namespace sluice
