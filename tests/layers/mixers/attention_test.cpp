#include "layers/mixers/attention.h"

#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::attention_of;
using testing_support::expect_a_sound_layer;
using testing_support::hidden_of;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;

/// Two key heads with two query heads each.
ModelConfig with_windows(const std::string& dtype, std::vector<int64_t> windows) {
  ModelConfig config = tiny_config("AFA", dtype);
  attention_of(config).head_windows = std::move(windows);
  return config;
}

TEST(Attention, IsASoundMixer) { expect_a_sound_layer(tiny_config("AFA", "f32")); }

TEST(Attention, IsASoundMixerWithAWindowForEachHead) {
  expect_a_sound_layer(with_windows("f32", {3, 120}));
}

TEST(Attention, WithTheSameWindowForEachHeadHasThatWindow) {
  Pool pool;
  ModelConfig config = tiny_config("AFA");
  attention_of(config).window = 7;
  const Model one(pool, config, 1);
  const Model each(pool, with_windows("f32", {7, 7}), 1);
  const auto batch = tiny_batch(pool, {{150, 3}, {40}});
  EXPECT_TRUE(same_bits(hidden_of(pool, each, batch), hidden_of(pool, one, batch)));
  const Model other(pool, with_windows("f32", {7, 8}), 1);
  EXPECT_FALSE(same_bits(hidden_of(pool, other, batch), hidden_of(pool, one, batch)));
}

TEST(Attention, RefusesWindowsThatDoNotFitItsHeads) {
  AttentionConfig config;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_windows = {3, 4, 5};
  EXPECT_EQ(config.check(), "head_windows: found 3 windows, allowed 2 (num_kv_heads) or none");
  config.head_windows = {3, 4};
  EXPECT_EQ(config.check(), "");
  config.window = 9;
  EXPECT_EQ(config.check(), "window: found 9, allowed none beside head_windows");
}

}  // namespace
}  // namespace sluice
