#include "layers/mixers/workspace.h"

#include <cmath>

#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::element;
using testing_support::expect_a_sound_layer;
using testing_support::hidden_of;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

WorkspaceConfig& workspace_of(ModelConfig& config) {
  return dynamic_cast<WorkspaceConfig&>(config.section("workspace"));
}

/// The gate stands open, so that what lies behind it counts.
ModelConfig small(const std::string& pattern, const std::string& dtype, int64_t chunk,
                  int64_t slots) {
  ModelConfig config = tiny_config(pattern, dtype);
  WorkspaceConfig& workspace = workspace_of(config);
  workspace.num_slots = slots;
  workspace.num_heads = 2;
  workspace.chunk_size = chunk;
  workspace.gate.output_gate_bias = 1.0;
  return config;
}

TEST(Workspace, IsASoundMixer) {
  // Short enough that the two documents of the gradient check, 6 and 5 tokens, write three times.
  expect_a_sound_layer(small("KFK", "f32", 2, 5));
}

TEST(Workspace, IsASoundMixerWithLongChunksAndWithoutAGate) {
  ModelConfig config = small("KFK", "f32", 33, 3);
  workspace_of(config).gate.output_gate = false;
  expect_a_sound_layer(config);
}

TEST(Workspace, FeelsEveryTokenOfEarlierChunksAndNoneOfItsOwn) {
  // A single layer and no other path along the sequence: token 17 stands in chunk 2 of 8 tokens.
  Pool pool;
  const Model model(pool, small("K", "f64", 8, 4), 1);
  TinyBatch batch = tiny_batch(pool, {{30}});
  const Tensor before = hidden_of(pool, model, batch);
  const int64_t width = before.dim(1);
  for (int64_t token = 0; token < 30; ++token) {
    if (token == 17) continue;
    int32_t& id = batch.tokens.data<int32_t>()[token];
    const int32_t original = id;
    id = (id + 1) % 64;
    const Tensor after = hidden_of(pool, model, batch);
    id = original;
    double change = 0.0;
    for (int64_t i = 17 * width; i < 18 * width; ++i) {
      change += std::abs(element(after, i) - element(before, i));
    }
    if (token < 16) {
      EXPECT_GT(change, 0.0) << token;
    } else {
      EXPECT_EQ(change, 0.0) << token;
    }
  }
}

TEST(Workspace, OfOneChunkReadsTheLearnedSlots) {
  // Without a complete chunk before it every token sees the same slots, whatever stands around it.
  Pool pool;
  const Model model(pool, small("K", "f64", 64, 4), 1);
  TinyBatch batch = tiny_batch(pool, {{64}});
  std::ranges::fill(batch.tokens.span<int32_t>(), 7);
  const Tensor hidden = hidden_of(pool, model, batch);
  for (int64_t i = 0; i < hidden.numel(); ++i) {
    ASSERT_EQ(element(hidden, i), element(hidden, i % hidden.dim(1)));
  }
}

TEST(Workspace, KeepsNoMoreForALongDocument) {
  Pool pool;
  const Model model(pool, small("K", "f32", 8, 4), 1);
  const int64_t before = pool.in_use().total();
  const DecodeState few = model.start_decoding(pool, 10);
  const int64_t for_few = pool.in_use().total() - before;
  const DecodeState many = model.start_decoding(pool, 100000);
  EXPECT_EQ(pool.in_use().total() - before, 2 * for_few);
}

}  // namespace
}  // namespace sluice
