#pragma once
// What mixers with memories must do beside mixer_checks.h, in a small model of width 32.

#include <vector>

#include "tests/layers/mixers/mixer_checks.h"

namespace sluice::testing_support {

/// Final hidden states [N, D] in evaluation.
inline Tensor evaluated_hidden(Pool& pool, const Model& model, const TinyBatch& batch) {
  return hidden_of(pool, model, batch, /*training=*/false);
}

/// Decodes a batch of one sequence in one piece.
inline void decode_all(Pool& pool, const Model& model, const TinyBatch& batch, DecodeState& state) {
  Tape tape(pool);
  RoutingSession session = plain_session(model);
  ForwardContext context{tape, batch.layout};
  context.routing = &session;
  session.begin_evaluation();
  (void)model.decode(context, batch.tokens, state);
  session.end_evaluation();
}

inline void expect_close(const Tensor& actual, const Tensor& expected, double tolerance) {
  for (int64_t i = 0; i < expected.numel(); ++i) {
    ASSERT_NEAR(element(actual, i), element(expected, i), tolerance) << "row " << i / 32;
  }
}

/// All of mixer_checks.h for one configuration.
inline void expect_sound(const ModelConfig& config) {
  expect_a_sound_mixer([&](const char* dtype) {
    ModelConfig typed = config;
    typed.dtype = dtype;
    return typed;
  });
}

/// Decoding keeps as much of a short sequence as of a long one.
inline void expect_constant_decoding_memory(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  std::vector<int64_t> bytes;
  for (const int64_t capacity : {8, 4096}) {
    pool.reset_peak();
    const int64_t before = pool.peak().total();
    const DecodeState state = model.start_decoding(pool, capacity);
    bytes.push_back(pool.peak().total() - before);
  }
  EXPECT_GT(bytes[0], 0);
  EXPECT_EQ(bytes[0], bytes[1]);
}

}  // namespace sluice::testing_support
