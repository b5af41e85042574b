#pragma once
// What every layer must do, whatever it computes, checked on small models that use it: documents apart,
// decoding equal to the full pass, no bit changed by threads or recomputation, gradients right, shapes
// alone enough to plan. tests/contract/layer_contract_test.cpp holds every line of the .def lists to it
// with its default settings, the test of a layer what other settings change.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "autograd/support/parallel.h"
#include "tests/layers/model_gradients.h"
#include "tests/support/tiny_model.h"

namespace sluice::testing_support {

/// Hidden states behind the final norm, in training without recording or in evaluation.
inline Tensor hidden_of(Pool& pool, const Model& model, const TinyBatch& batch,
                        bool training = true) {
  Tape tape(pool);
  const NoGrad no_grad(tape);
  RoutingSession session = plain_session(model);
  ForwardContext context = training_context(tape, batch, session);
  context.training = training;
  return model.forward(context, batch.tokens).hidden;
}

/// The loss of one forward and backward, and the gradients of all trainable parameters.
struct Gradients {
  double loss = 0.0;
  std::vector<Tensor> of;  // in the order of Model::parameters()
  std::vector<std::string> names;
};
inline Gradients gradients_of(Pool& pool, const Model& model, const TinyBatch& batch,
                              Recompute recompute = Recompute::none) {
  zero_grads(model, pool);
  Gradients result;
  Tape tape(pool);
  RoutingSession session = plain_session(model);
  const ForwardContext context = training_context(tape, batch, session, recompute);
  const Model::Loss loss = model.loss(context, batch.tokens, batch.targets);
  tape.backward(loss.total);
  tape.reset();
  result.loss = loss.language_model;
  for (Parameter* parameter : model.parameters()) {
    if (!parameter->trainable) continue;
    parameter->materialise_grad();
    result.of.push_back(parameter->grad.clone(pool));
    result.names.push_back(parameter->name);
  }
  return result;
}

inline void expect_same_gradients(const Gradients& a, const Gradients& b) {
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.names, b.names);
  for (size_t p = 0; p < a.of.size(); ++p) {
    EXPECT_TRUE(same_bits(a.of[p], b.of[p])) << a.names[p];
  }
}

/// Documents packed together, in two sequences, give the bits that each gives alone.
inline void expect_documents_apart(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  const TinyBatch packed = tiny_batch(pool, {{7, 1, 150, 20}, {65, 2}});
  const Tensor together = hidden_of(pool, model, packed);
  const int64_t width = together.dim(1);
  for (int64_t d = 0; d < packed.layout.documents(); ++d) {
    const int64_t begin = packed.layout.document_offsets[static_cast<size_t>(d)];
    const int64_t end = packed.layout.document_offsets[static_cast<size_t>(d) + 1];
    TinyBatch alone = tiny_batch(pool, {{end - begin}});
    std::copy_n(packed.tokens.data<int32_t>() + begin, end - begin, alone.tokens.data<int32_t>());
    const Tensor separate = hidden_of(pool, model, alone);
    for (int64_t i = 0; i < separate.numel(); ++i) {
      ASSERT_EQ(element(together, begin * width + i), element(separate, i))
          << "document " << d << " token " << i / width;
    }
  }
}

/// A token that changes leaves every bit before it as it was, and changes its own place.
inline void expect_causal(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  TinyBatch batch = tiny_batch(pool, {{90}});
  const Tensor before = hidden_of(pool, model, batch, /*training=*/false);
  const int64_t width = before.dim(1);
  for (const int64_t token : {0, 1, 31, 64, 88}) {
    int32_t& id = batch.tokens.data<int32_t>()[token];
    const int32_t original = id;
    id = (id + 1) % 64;
    const Tensor after = hidden_of(pool, model, batch, /*training=*/false);
    id = original;
    for (int64_t i = 0; i < token * width; ++i) {
      ASSERT_EQ(element(after, i), element(before, i)) << "token " << token << " at " << i / width;
    }
    double change = 0.0;
    for (int64_t i = token * width; i < (token + 1) * width; ++i) {
      change += std::abs(element(after, i) - element(before, i));
    }
    EXPECT_GT(change, 0.0) << token;
  }
}

/// Every token before the last changes the last.
inline void expect_all_earlier_tokens_seen(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  TinyBatch batch = tiny_batch(pool, {{50}});
  const Tensor before = hidden_of(pool, model, batch, /*training=*/false);
  for (const int64_t token : {0, 20, 48}) {
    int32_t& id = batch.tokens.data<int32_t>()[token];
    const int32_t original = id;
    id = (id + 1) % 64;
    const Tensor after = hidden_of(pool, model, batch, /*training=*/false);
    id = original;
    EXPECT_NE(element(after, 49 * before.dim(1)), element(before, 49 * before.dim(1))) << token;
  }
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

/// Decoding keeps as much of a short sequence as of a long one.
inline void expect_constant_decoding_memory(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  std::vector<int64_t> bytes;
  for (const int64_t capacity : {int64_t{1}, int64_t{1} << 40}) {
    const int64_t before = pool.in_use().total();
    const DecodeState state = model.start_decoding(pool, capacity);
    bytes.push_back(pool.in_use().total() - before);
  }
  EXPECT_GT(bytes[0], 0);
  EXPECT_EQ(bytes[0], bytes[1]);
}

inline void expect_close(const Tensor& actual, const Tensor& expected, double tolerance) {
  const int64_t width = expected.dim(1);
  for (int64_t i = 0; i < expected.numel(); ++i) {
    ASSERT_NEAR(element(actual, i), element(expected, i), tolerance) << "row " << i / width;
  }
}

/// Token by token and in pieces, against the full pass in evaluation; `tolerance` is of the largest
/// value, or of 1.
inline void expect_decoding_equals_forward(const ModelConfig& config, double tolerance) {
  Pool pool;
  const Model model(pool, config, 1);
  const TinyBatch batch = tiny_batch(pool, {{150}});
  const Tensor full = hidden_of(pool, model, batch, /*training=*/false);
  const int64_t width = full.dim(1);
  double largest = 1.0;
  for (int64_t i = 0; i < full.numel(); ++i) {
    largest = std::max(largest, std::abs(element(full, i)));
  }
  for (const std::vector<int64_t>& pieces :
       {std::vector<int64_t>(150, 1), std::vector<int64_t>{5, 1, 1, 70, 1, 40, 1, 31}}) {
    Tape tape(pool);
    const NoGrad no_grad(tape);
    RoutingSession session = plain_session(model);
    DecodeState state = model.start_decoding(pool, 160);
    int64_t row = 0;
    for (const int64_t piece : pieces) {
      const SequenceLayout layout = SequenceLayout::single(pool, piece, row);
      ForwardContext context{tape, layout};
      context.routing = &session;
      session.begin_evaluation();
      const Tensor tokens =
          Tensor::of<int32_t>(pool, {piece},
                              std::vector<int32_t>(batch.tokens.data<int32_t>() + row,
                                                   batch.tokens.data<int32_t>() + row + piece));
      const Tensor hidden = model.decode(context, tokens, state);
      session.end_evaluation();
      for (int64_t i = 0; i < hidden.numel(); ++i) {
        ASSERT_NEAR(element(hidden, i), element(full, row * width + i), tolerance * largest)
            << "row " << row + i / width << " of pieces of " << piece;
      }
      row += piece;
    }
    EXPECT_EQ(state.length, 150);
    for (const auto& visits : state.sublayers) {
      if (visits.front().mixer != nullptr) {
        EXPECT_EQ(visits.front().mixer->length(), 150);
      }
    }
  }
}

inline void expect_same_on_any_threads(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  const TinyBatch batch = tiny_batch(pool, {{70, 9}, {217, 30}});
  set_num_threads(1);
  const Gradients one = gradients_of(pool, model, batch);
  for (const int threads : {2, 3}) {
    set_num_threads(threads);
    expect_same_gradients(gradients_of(pool, model, batch), one);
  }
  set_num_threads(num_processors());
}

inline void expect_recomputation_changes_no_bit(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  const TinyBatch batch = tiny_batch(pool, {{40, 9}, {117, 30}});
  const Gradients plain = gradients_of(pool, model, batch);
  expect_same_gradients(gradients_of(pool, model, batch, Recompute::all), plain);
}

/// A step on shapes alone reaches nearly the peak of a real one.
inline void expect_shapes_to_tell_the_memory(const ModelConfig& config) {
  Pool shapes(Pool::Mode::shapes_only);
  Pool memory;
  std::vector<int64_t> peaks;
  for (Pool* pool : {&shapes, &memory}) {
    const Model model(*pool, config, 1);
    const TinyBatch batch = tiny_batch(*pool, {{40, 9}, {17, 30}});
    zero_grads(model, *pool);
    pool->reset_peak();
    Tape tape(*pool);
    RoutingSession session = plain_session(model);
    const ForwardContext context = training_context(tape, batch, session);
    tape.backward(model.loss(context, batch.tokens, batch.targets).total);
    peaks.push_back(pool->peak().total());
  }
  EXPECT_NEAR(static_cast<double>(peaks[0]), static_cast<double>(peaks[1]),
              0.02 * static_cast<double>(peaks[1]));
}

/// All of this, for a layer without chance, but gradients.
inline void expect_a_sound_layer_forward(const ModelConfig& config) {
  ModelConfig f32 = config;
  f32.dtype = "f32";
  ModelConfig f64 = config;
  f64.dtype = "f64";
  expect_documents_apart(f32);
  expect_causal(f32);
  expect_decoding_equals_forward(f32, 1e-5);
  expect_decoding_equals_forward(f64, 1e-12);
  expect_same_on_any_threads(f32);
  expect_recomputation_changes_no_bit(f32);
  expect_shapes_to_tell_the_memory(f32);
}

/// All of this, for a layer without chance.
inline void expect_a_sound_layer(const ModelConfig& config) {
  expect_a_sound_layer_forward(config);
  ModelConfig f64 = config;
  f64.dtype = "f64";
  expect_model_gradients(f64);
}

}  // namespace sluice::testing_support
