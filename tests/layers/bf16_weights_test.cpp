// Whole models whose matrices are stored in bf16.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::attention_of;
using testing_support::experts_of;
using testing_support::plain_session;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;

/// The same model twice: in bf16, and in f32 with the weights that bf16 can hold.
struct Both {
  explicit Both(const ModelConfig& config)
      : narrow(narrow_pool, config, 1), rounded(rounded_pool, config, 1) {
    const auto of = narrow.parameters();
    const auto to = rounded.parameters();
    for (size_t i = 0; i < of.size(); ++i) {
      of[i]->store_in_bf16(narrow_pool);
      if (of[i]->value.dtype() != DType::bf16) continue;
      for (int64_t e = 0; e < to[i]->value.numel(); ++e) {
        to[i]->value.data<float>()[e] = widened(of[i]->value.data<BFloat16>()[e]);
      }
    }
  }
  Pool narrow_pool;
  Pool rounded_pool;
  Model narrow;
  Model rounded;
};

std::vector<ModelConfig> configs() {
  std::vector<ModelConfig> all{tiny_config("AEAF"), tiny_config("AEAF")};
  ModelConfig& other = all[1];
  other.norm.type = "layer_norm";
  other.learned_positions = 64;
  other.tie_embeddings = false;
  attention_of(other).qk_norm = "per_head";
  attention_of(other).bias = "all";
  experts_of(other).shared = std::make_shared<SharedExpertsConfig>();
  return all;
}

/// Logits of the full forward, losses of its tokens, and the logits of decoding in pieces.
std::vector<Tensor> results(Pool& pool, const Model& model) {
  const TinyBatch batch = tiny_batch(pool, {{29}});
  Tape tape(pool);
  const NoGrad no_grad(tape);
  RoutingSession session = plain_session(model);
  session.begin_evaluation();
  ForwardContext whole{tape, batch.layout};
  whole.routing = &session;
  std::vector<Tensor> all{model.logits(whole, model.forward(whole, batch.tokens).hidden),
                          model.token_losses(whole, batch.tokens, batch.targets)};
  DecodeState state = model.start_decoding(pool, 64);
  const int32_t* ids = batch.tokens.data<int32_t>();
  for (const int64_t chunk : {5, 1, 1, 20, 1, 1}) {
    const SequenceLayout layout = SequenceLayout::single(pool, chunk, state.length);
    ForwardContext context{tape, layout};
    context.routing = &session;
    const Tensor tokens = Tensor::of<int32_t>(
        pool, {chunk}, std::span<const int32_t>(ids, static_cast<size_t>(chunk)));
    ids += chunk;
    all.push_back(model.logits(context, model.decode(context, tokens, state)));
  }
  session.end_evaluation();
  return all;
}

TEST(Bf16Model, HoldsMatricesInBf16AndTheRestInF32) {
  for (const ModelConfig& config : configs()) {
    const Both both(config);
    int64_t matrices = 0;
    for (const Parameter* parameter : both.narrow.parameters()) {
      const bool is_matrix =
          parameter->kind == ParameterKind::matrix || parameter->kind == ParameterKind::embedding;
      EXPECT_EQ(parameter->value.dtype(), is_matrix ? DType::bf16 : DType::f32) << parameter->name;
      matrices += is_matrix ? 1 : 0;
    }
    EXPECT_GT(matrices, 10);
  }
}

TEST(Bf16Model, ComputesWhatTheRoundedF32ModelDoesBitForBit) {
  for (const ModelConfig& config : configs()) {
    Both both(config);
    const auto narrow = results(both.narrow_pool, both.narrow);
    const auto rounded = results(both.rounded_pool, both.rounded);
    for (size_t i = 0; i < narrow.size(); ++i) EXPECT_TRUE(same_bits(narrow[i], rounded[i])) << i;
  }
}

TEST(Bf16Model, IsNotTheModelItWasRoundedFrom) {
  const ModelConfig config = tiny_config("AEAF");
  Both both(config);
  Pool pool;
  const Model plain(pool, config, 1);
  EXPECT_FALSE(same_bits(results(both.narrow_pool, both.narrow)[0], results(pool, plain)[0]));
}

TEST(Bf16Model, TakesHalfTheMemory) {
  // Wide enough that norms, routers and tables of rotations are a small share.
  ModelConfig config = tiny_config("AEAF");
  config.hidden_size = 128;
  config.vocab_size = 512;
  attention_of(config).max_position_embeddings = 64;
  const Both both(config);
  const auto bytes = [](const Pool& pool) {
    return static_cast<double>(pool.in_use()[MemoryKind::parameters]);
  };
  EXPECT_GE(bytes(both.narrow_pool) / bytes(both.rounded_pool), 0.5);
  EXPECT_LE(bytes(both.narrow_pool) / bytes(both.rounded_pool), 0.53);
}

TEST(Bf16Model, CannotBeTrained) {
  Both both(tiny_config("AEAF"));
  const TinyBatch batch = tiny_batch(both.narrow_pool, {{29}});
  Tape tape(both.narrow_pool);
  RoutingSession session = plain_session(both.narrow);
  testing_support::zero_grads(both.narrow, both.narrow_pool);
  EXPECT_THAT(testing::error_of<DTypeError>([&] {
                (void)both.narrow.forward(training_context(tape, batch, session), batch.tokens);
              }),
              ::testing::HasSubstr("weight is bf16, which is for inference only"));
}

}  // namespace
}  // namespace sluice
