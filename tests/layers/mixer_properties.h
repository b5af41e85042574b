#pragma once
// What every mixer keeps, checked on small models that use it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/support/parallel.h"
#include "tests/support/tiny_model.h"

namespace sluice::testing_support {

/// One sequence of these documents, token for token.
inline TinyBatch batch_of(Pool& pool, const std::vector<std::vector<int32_t>>& documents) {
  TinyBatch batch;
  batch.layout.document_offsets = {0};
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  for (const auto& document : documents) {
    for (size_t i = 0; i < document.size(); ++i) positions.push_back(static_cast<int32_t>(i));
    tokens.insert(tokens.end(), document.begin(), document.end());
    batch.layout.document_offsets.push_back(static_cast<int64_t>(tokens.size()));
    batch.layout.document_domains.push_back(0);
  }
  const auto n = static_cast<int64_t>(tokens.size());
  batch.layout.sequence_offsets = {0, n};
  batch.layout.global_samples = {0};
  batch.layout.counted.assign(tokens.size(), 1);
  batch.layout.positions = Tensor::of<int32_t>(pool, {n}, positions);
  batch.tokens = Tensor::of<int32_t>(pool, {n}, tokens);
  return batch;
}

inline std::vector<int32_t> random_tokens(int64_t count, uint64_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(
        uniform_below({seed, RandomPurpose::test, 0, 0}, 0, static_cast<uint64_t>(i), 64)));
  }
  return tokens;
}

/// Final hidden states in evaluation, as doubles.
inline std::vector<double> hidden_states(const Model& model, Pool& pool, const TinyBatch& batch) {
  Tape tape(pool);
  const NoGrad no_grad(tape);
  RoutingSession session = plain_session(model);
  ForwardContext context = training_context(tape, batch, session);
  context.training = false;
  const Tensor hidden = model.forward(context, batch.tokens).hidden;
  std::vector<double> values;
  for (int64_t i = 0; i < hidden.numel(); ++i) values.push_back(element(hidden, i));
  return values;
}

/// A packed document has the bits that it has alone.
inline void expect_documents_stay_apart(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  std::vector<std::vector<int32_t>> documents;
  for (const int64_t length : {7, 1, 40, 2, 33, 16}) {
    documents.push_back(random_tokens(length, static_cast<uint64_t>(length)));
  }
  const std::vector<double> packed = hidden_states(model, pool, batch_of(pool, documents));
  size_t row = 0;
  for (const auto& document : documents) {
    const std::vector<double> alone = hidden_states(model, pool, batch_of(pool, {document}));
    for (size_t i = 0; i < alone.size(); ++i) {
      ASSERT_EQ(packed[row + i], alone[i]) << "document of " << document.size() << " tokens";
    }
    row += alone.size();
  }
}

/// No token sees a later one, and each sees itself and every earlier one.
inline void expect_causality(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  const std::vector<int32_t> tokens = random_tokens(50, 3);
  const std::vector<double> before = hidden_states(model, pool, batch_of(pool, {tokens}));
  const size_t width = before.size() / tokens.size();
  for (const size_t changed : {size_t{0}, size_t{20}, size_t{49}}) {
    std::vector<int32_t> other = tokens;
    other[changed] = (other[changed] + 1) % 64;
    const std::vector<double> after = hidden_states(model, pool, batch_of(pool, {other}));
    for (size_t i = 0; i < changed * width; ++i) ASSERT_EQ(before[i], after[i]);
    for (size_t t = changed; t < tokens.size(); ++t) {
      EXPECT_NE(before[t * width], after[t * width]) << "token " << t << " misses " << changed;
    }
  }
}

/// Decoding, token by token and in pieces, gives the rows of the full pass.
inline void expect_decoding_equals_the_full_pass(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  const std::vector<int32_t> tokens = random_tokens(61, 5);
  const std::vector<double> full = hidden_states(model, pool, batch_of(pool, {tokens}));
  const double tolerance = config.dtype == "f64" ? 1e-12 : 1e-5;
  double scale = 1.0;
  for (const double value : full) scale = std::max(scale, std::abs(value));
  const size_t width = full.size() / tokens.size();
  for (const std::vector<int64_t>& pieces :
       {std::vector<int64_t>(61, 1), {5, 1, 1, 30, 23, 1}, {40, 2, 19}}) {
    Tape tape(pool);
    RoutingSession session = plain_session(model);
    DecodeState state = model.start_decoding(pool, 64);
    int64_t first = 0;
    for (const int64_t piece : pieces) {
      const SequenceLayout layout = SequenceLayout::single(pool, piece, first);
      ForwardContext context{tape, layout};
      context.routing = &session;
      session.begin_evaluation();
      const Tensor hidden = model.decode(
          context,
          Tensor::of<int32_t>(
              pool, {piece},
              std::vector<int32_t>(tokens.begin() + first, tokens.begin() + first + piece)),
          state);
      session.end_evaluation();
      for (int64_t i = 0; i < hidden.numel(); ++i) {
        ASSERT_NEAR(element(hidden, i),
                    full[static_cast<size_t>(first) * width + static_cast<size_t>(i)],
                    tolerance * scale)
            << "token " << first << " in pieces of " << pieces.front();
      }
      first += piece;
    }
    EXPECT_EQ(state.length, 61);
    for (const auto& visits : state.sublayers) {
      for (const auto& kept : visits) {
        if (kept.mixer != nullptr) {
          EXPECT_EQ(kept.mixer->length(), 61);
        }
      }
    }
  }
}

/// Loss and gradients of two sequences of packed documents.
inline std::vector<double> loss_and_gradients(const Model& model, Pool& pool,
                                              Recompute recompute = Recompute::none) {
  const TinyBatch batch = tiny_batch(pool, {{9, 30, 1}, {41}});
  zero_grads(model, pool);
  Tape tape(pool);
  RoutingSession session = plain_session(model);
  const Model::Loss loss =
      model.loss(training_context(tape, batch, session, recompute), batch.tokens, batch.targets);
  tape.backward(loss.total);
  std::vector<double> result = {loss.language_model};
  for (Parameter* parameter : model.parameters()) {
    parameter->materialise_grad();
    for (int64_t i = 0; i < parameter->grad.numel(); ++i) {
      result.push_back(element(parameter->grad, i));
    }
  }
  return result;
}

inline void expect_the_same_bits_on_any_threads_and_recomputed(const ModelConfig& config) {
  Pool pool;
  const Model model(pool, config, 1);
  const int before = num_threads();
  set_num_threads(1);
  const std::vector<double> expected = loss_and_gradients(model, pool);
  for (const int threads : {2, 3}) {
    set_num_threads(threads);
    EXPECT_EQ(loss_and_gradients(model, pool), expected) << threads << " threads";
  }
  set_num_threads(before);
  EXPECT_EQ(loss_and_gradients(model, pool, Recompute::all), expected) << "recomputed";
}

}  // namespace sluice::testing_support
