#include "layers/mixers/sparse_attention.h"

#include <cmath>

#include "tests/layers/layer_checks.h"

namespace sluice {
namespace {

using testing_support::attention_of;
using testing_support::element;
using testing_support::expect_a_sound_layer;
using testing_support::hidden_of;
using testing_support::relative_distance;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;

SparseAttentionConfig& sparse_of(ModelConfig& config) {
  return dynamic_cast<SparseAttentionConfig&>(config.section("sparse_attention"));
}

ModelConfig small(const std::string& pattern, const std::string& dtype) {
  ModelConfig config = tiny_config(pattern, dtype);
  SparseAttentionConfig& sparse = sparse_of(config);
  sparse.num_heads = 4;
  sparse.num_kv_heads = 2;
  sparse.max_position_embeddings = 256;
  sparse.window = 5;
  sparse.chunk_size = 8;
  sparse.first_chunks = 1;
  sparse.chosen_chunks = 2;
  return config;
}

TEST(SparseAttention, IsASoundMixer) { expect_a_sound_layer(small("VFV", "f32")); }

TEST(SparseAttention, IsASoundMixerWithAGateAndLargeChunks) {
  ModelConfig config = small("VFV", "f32");
  sparse_of(config).gate.output_gate = true;
  sparse_of(config).chunk_size = 50;
  sparse_of(config).first_chunks = 0;
  sparse_of(config).chosen_chunks = 1;
  expect_a_sound_layer(config);
}

/// Copies every parameter of `from` to the one of `to` that stands at the same place.
void copy_values(const Model& from, const Model& to) {
  const auto source = from.parameters();
  const auto target = to.parameters();
  ASSERT_EQ(source.size(), target.size());
  for (size_t p = 0; p < source.size(); ++p) target[p]->value.copy_from(source[p]->value);
}

TEST(SparseAttention, ThatSeesEveryChunkIsFullAttention) {
  Pool pool;
  const Model full(pool, tiny_config("AFA", "f64"), 1);
  const TinyBatch batch = tiny_batch(pool, {{100, 3}, {40}});
  const Tensor expected = hidden_of(pool, full, batch);
  for (const auto& [first, chosen] : {std::pair<int64_t, int64_t>{20, 0}, {0, 20}, {3, 20}}) {
    ModelConfig config = small("VFV", "f64");
    sparse_of(config).first_chunks = first;
    sparse_of(config).chosen_chunks = chosen;
    // A token sees its own chunk through the window only.
    sparse_of(config).window = 8;
    const Model sparse(pool, config, 1);
    copy_values(full, sparse);
    EXPECT_LE(relative_distance(hidden_of(pool, sparse, batch), expected), 1e-13)
        << first << " and " << chosen;
  }
}

TEST(SparseAttention, WithoutChunksIsAttentionInAWindow) {
  Pool pool;
  ModelConfig windowed = tiny_config("AFA", "f64");
  attention_of(windowed).window = 5;
  const Model expected(pool, windowed, 1);
  ModelConfig config = small("VFV", "f64");
  sparse_of(config).first_chunks = 0;
  sparse_of(config).chosen_chunks = 0;
  const Model sparse(pool, config, 1);
  copy_values(expected, sparse);
  const TinyBatch batch = tiny_batch(pool, {{100, 3}, {40}});
  EXPECT_LE(relative_distance(hidden_of(pool, sparse, batch), hidden_of(pool, expected, batch)),
            1e-13);
}

TEST(SparseAttention, ReachesBehindItsWindow) {
  // Some token in the first chunk is felt at the end, and one in a chunk nobody chose is not.
  Pool pool;
  ModelConfig config = small("V", "f64");
  const Model model(pool, config, 1);
  TinyBatch batch = tiny_batch(pool, {{100}});
  const Tensor before = hidden_of(pool, model, batch);
  int64_t felt = 0;
  for (int64_t token = 0; token < 95; ++token) {
    int32_t& id = batch.tokens.data<int32_t>()[token];
    const int32_t original = id;
    id = (id + 1) % 64;
    const Tensor after = hidden_of(pool, model, batch);
    id = original;
    double change = 0.0;
    for (int64_t i = 99 * 32; i < 100 * 32; ++i) {
      change += std::abs(element(after, i) - element(before, i));
    }
    if (change > 0.0) {
      ++felt;
    } else {
      EXPECT_GE(token, 8) << "a token of the first chunk is not felt";
    }
  }
  // The first chunk, at most two chosen ones for either key head, and choices that tip over.
  EXPECT_GE(felt, 8 + 16);
  EXPECT_LT(felt, 80);
}

TEST(SparseAttention, GateStartsNearlyClosed) {
  Pool pool;
  ModelConfig gated_config = small("V", "f64");
  sparse_of(gated_config).gate.output_gate = true;
  const Model gated(pool, gated_config, 1);
  const Model open(pool, small("V", "f64"), 1);
  const TinyBatch batch = tiny_batch(pool, {{30}});
  // The final norm hides the length of the stream, not its direction.
  ModelConfig none_config = tiny_config("F", "f64");
  const Model none(pool, none_config, 1);
  for (Parameter* parameter : none.parameters()) {
    if (!parameter->name.ends_with("w_down")) continue;
    std::ranges::fill(parameter->value.span<double>(), 0.0);
  }
  const Tensor bare = hidden_of(pool, none, batch);
  const double moved = relative_distance(hidden_of(pool, gated, batch), bare);
  const double moved_open = relative_distance(hidden_of(pool, open, batch), bare);
  EXPECT_GT(moved, 0.0);
  EXPECT_LT(moved, 0.1 * moved_open);
}

}  // namespace
}  // namespace sluice
