// Identities of whole models.

#include "layers/model.h"

#include <gtest/gtest.h>

#include "autograd/support/parallel.h"
#include "tests/layers/model_gradients.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

using testing_support::attention_of;
using testing_support::dense_of;
using testing_support::element;
using testing_support::experts_of;
using testing_support::plain_session;
using testing_support::relative_distance;
using testing_support::same_bits;
using testing_support::tiny_batch;
using testing_support::tiny_config;
using testing_support::TinyBatch;
using testing_support::training_context;
using testing_support::zero_grads;

class ModelTest : public testing::Test {
 protected:
  /// Per-token losses without recording.
  Tensor losses(const Model& model, const TinyBatch& batch) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    RoutingSession session = plain_session(model);
    const ForwardContext context = training_context(tape, batch, session);
    return model.token_losses(context, batch.tokens, batch.targets);
  }

  /// One forward and backward; gradients stay in the parameters.
  double train_once(const Model& model, const TinyBatch& batch,
                    Recompute recompute = Recompute::none) {
    zero_grads(model, pool_);
    Tape tape(pool_);
    RoutingSession session = plain_session(model);
    const ForwardContext context = training_context(tape, batch, session, recompute);
    const Model::Loss loss = model.loss(context, batch.tokens, batch.targets);
    tape.backward(loss.total);
    tape.reset();
    for (Parameter* parameter : model.parameters()) parameter->materialise_grad();
    return loss.language_model;
  }

  std::vector<Tensor> grads(const Model& model) {
    std::vector<Tensor> result;
    for (Parameter* parameter : model.parameters()) result.push_back(parameter->grad.clone(pool_));
    return result;
  }

  Parameter& find(const Model& model, const std::string& name) {
    for (Parameter* parameter : model.parameters()) {
      if (parameter->name == name) return *parameter;
    }
    throw InternalError("no parameter " + name);
  }

  Pool pool_;
};

TEST_F(ModelTest, NamesParametersByTheirPath) {
  ModelConfig config = tiny_config("AFAE");
  config.tie_embeddings = false;
  experts_of(config).shared = std::make_shared<SharedExpertsConfig>();
  const Model model(pool_, config, 1);
  std::vector<std::string> names;
  for (const Parameter* parameter : model.parameters()) names.push_back(parameter->name);
  const std::vector<std::string> expected = {"embedding.weight",
                                             "layers.0.norm.weight",
                                             "layers.0.attention.w_q",
                                             "layers.0.attention.w_k",
                                             "layers.0.attention.w_v",
                                             "layers.0.attention.w_o",
                                             "layers.1.norm.weight",
                                             "layers.1.feed_forward.w_gate",
                                             "layers.1.feed_forward.w_up",
                                             "layers.1.feed_forward.w_down",
                                             "layers.2.norm.weight",
                                             "layers.2.attention.w_q",
                                             "layers.2.attention.w_k",
                                             "layers.2.attention.w_v",
                                             "layers.2.attention.w_o",
                                             "layers.3.norm.weight",
                                             "layers.3.router.weight",
                                             "layers.3.experts.w_gate",
                                             "layers.3.experts.w_up",
                                             "layers.3.experts.w_down",
                                             "layers.3.shared_experts.w_gate",
                                             "layers.3.shared_experts.w_up",
                                             "layers.3.shared_experts.w_down",
                                             "final_norm.weight",
                                             "head"};
  EXPECT_EQ(names, expected);
}

TEST_F(ModelTest, InitialValuesDependOnSeedAndNameOnly) {
  const Model shallow(pool_, tiny_config("AF"), 1);
  const Model deep(pool_, tiny_config("AFAE"), 1);
  const Model other_seed(pool_, tiny_config("AF"), 2);
  EXPECT_TRUE(same_bits(find(shallow, "layers.0.attention.w_q").value,
                        find(deep, "layers.0.attention.w_q").value));
  EXPECT_FALSE(same_bits(find(shallow, "layers.0.attention.w_q").value,
                         find(other_seed, "layers.0.attention.w_q").value));
}

TEST_F(ModelTest, OneExpertWithTopOneEqualsTheDenseFeedForward) {
  ModelConfig dense = tiny_config("AF", "f64");
  ModelConfig sparse = tiny_config("AE", "f64");
  experts_of(sparse).num_experts = 1;
  experts_of(sparse).top_k = 1.0;  // renormalised weights are 1, as a single expert should have
  experts_of(sparse).intermediate_size = dense_of(dense).intermediate_size;
  const Model dense_model(pool_, dense, 1);
  const Model sparse_model(pool_, sparse, 1);
  for (const char* name : {"w_gate", "w_up", "w_down"}) {
    find(sparse_model, std::string("layers.1.experts.") + name)
        .value.copy_from(find(dense_model, std::string("layers.1.feed_forward.") + name).value);
  }
  const TinyBatch batch = tiny_batch(pool_, {{9, 14}, {23}});
  EXPECT_LE(relative_distance(losses(sparse_model, batch), losses(dense_model, batch)), 1e-12);
  const double dense_loss = train_once(dense_model, batch);
  const double sparse_loss = train_once(sparse_model, batch);
  EXPECT_NEAR(dense_loss, sparse_loss, 1e-12);
  EXPECT_LE(relative_distance(find(sparse_model, "layers.1.experts.w_up").grad.reshaped({48, 32}),
                              find(dense_model, "layers.1.feed_forward.w_up").grad),
            1e-10);
}

TEST_F(ModelTest, GroupedQueriesWithEqualHeadsAreMultiHeadAttention) {
  // Each key/value head of a grouped model, duplicated for its query heads, gives the multi-head
  // model.
  ModelConfig grouped = tiny_config("AF", "f64");
  ModelConfig full = tiny_config("AF", "f64");
  attention_of(full).num_kv_heads = 4;
  const Model grouped_model(pool_, grouped, 1);
  const Model full_model(pool_, full, 1);
  for (const char* name : {"layers.0.attention.w_k", "layers.0.attention.w_v"}) {
    const Tensor& from = find(grouped_model, name).value;  // [2 * 8, 32]
    Tensor& to = find(full_model, name).value;             // [4 * 8, 32]
    for (int64_t head = 0; head < 4; ++head) {
      for (int64_t i = 0; i < 8 * 32; ++i)
        to.data<double>()[head * 8 * 32 + i] = from.data<double>()[head / 2 * 8 * 32 + i];
    }
  }
  const TinyBatch batch = tiny_batch(pool_, {{31}});
  EXPECT_LE(relative_distance(losses(grouped_model, batch), losses(full_model, batch)), 1e-12);
  train_once(grouped_model, batch);
  train_once(full_model, batch);
  const Tensor& grad_grouped = find(grouped_model, "layers.0.attention.w_k").grad;
  const Tensor& grad_full = find(full_model, "layers.0.attention.w_k").grad;
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t i = 0; i < 8 * 32; ++i) {
      const double sum = element(grad_full, 2 * head * 8 * 32 + i) +
                         element(grad_full, (2 * head + 1) * 8 * 32 + i);
      ASSERT_NEAR(element(grad_grouped, head * 8 * 32 + i), sum, 1e-12);
    }
  }
}

TEST_F(ModelTest, PackedDocumentsGiveTheLossesOfUnpackedOnes) {
  const Model model(pool_, tiny_config("AFAE"), 1);
  const TinyBatch packed = tiny_batch(pool_, {{7, 1, 65, 20}});
  const Tensor together = losses(model, packed);
  for (int64_t d = 0; d < packed.layout.documents(); ++d) {
    const int64_t begin = packed.layout.document_offsets[static_cast<size_t>(d)];
    const int64_t end = packed.layout.document_offsets[static_cast<size_t>(d) + 1];
    TinyBatch alone = tiny_batch(pool_, {{end - begin}});
    std::copy_n(packed.tokens.data<int32_t>() + begin, end - begin, alone.tokens.data<int32_t>());
    std::copy_n(packed.targets.data<int32_t>() + begin, end - begin, alone.targets.data<int32_t>());
    const Tensor separate = losses(model, alone);
    for (int64_t i = begin; i < end; ++i) {
      EXPECT_EQ(together.data<float>()[i], separate.data<float>()[i - begin])
          << "document " << d << " token " << i - begin;
    }
  }
}

TEST_F(ModelTest, ATokenDoesNotDependOnItsMicroBatchNeighbours) {
  const Model model(pool_, tiny_config("AEAF"), 1);
  const Tensor both = losses(model, tiny_batch(pool_, {{40, 9}, {17, 30}}));
  const Tensor second = losses(model, tiny_batch(pool_, {{17, 30}}, 64, 1));
  for (int64_t i = 0; i < second.numel(); ++i) {
    ASSERT_EQ(both.data<float>()[49 + i], second.data<float>()[i]) << i;
  }
}

TEST_F(ModelTest, RecomputationChangesNoBit) {
  ModelConfig config = tiny_config("AEAFAE");
  config.dropout = 0.1;
  const Model model(pool_, config, 1);
  const TinyBatch batch = tiny_batch(pool_, {{40, 9}, {17, 30}});
  const double loss = train_once(model, batch);
  const auto plain = grads(model);
  for (const Recompute recompute : {Recompute::experts, Recompute::all}) {
    EXPECT_EQ(train_once(model, batch, recompute), loss);
    const auto again = grads(model);
    for (size_t p = 0; p < plain.size(); ++p) {
      EXPECT_TRUE(same_bits(again[p], plain[p])) << model.parameters()[p]->name;
    }
  }
}

TEST_F(ModelTest, RecomputationReachesParametersBehindAFrozenEmbedding) {
  const Model model(pool_, tiny_config("AF"), 1);
  find(model, "embedding.weight").trainable = false;
  const TinyBatch batch = tiny_batch(pool_, {{12}});
  for (const Recompute recompute : {Recompute::none, Recompute::all}) {
    zero_grads(model, pool_);
    Tape tape(pool_);
    RoutingSession session = plain_session(model);
    const ForwardContext context = training_context(tape, batch, session, recompute);
    tape.backward(model.loss(context, batch.tokens, batch.targets).total);
    EXPECT_FALSE(find(model, "layers.0.attention.w_q").grad_is_zero);
    EXPECT_FALSE(find(model, "embedding.weight").grad.defined());
  }
}

TEST_F(ModelTest, GivesTheSameGradientsOnAnyNumberOfThreads) {
  const Model model(pool_, tiny_config("AEAE"), 1);
  const TinyBatch batch = tiny_batch(pool_, {{70, 9}, {117, 30}});
  set_num_threads(1);
  const double loss = train_once(model, batch);
  const auto one = grads(model);
  for (const int threads : {2, 3}) {
    set_num_threads(threads);
    EXPECT_EQ(train_once(model, batch), loss);
    const auto many = grads(model);
    for (size_t p = 0; p < one.size(); ++p)
      EXPECT_TRUE(same_bits(many[p], one[p])) << model.parameters()[p]->name;
  }
  set_num_threads(num_processors());
}

TEST_F(ModelTest, DecodingEqualsTheFullForward) {
  for (const bool windowed : {false, true}) {
    ModelConfig config = tiny_config("AEAF");
    if (windowed) attention_of(config).window = 6;
    const Model model(pool_, config, 1);
    const TinyBatch batch = tiny_batch(pool_, {{29}});
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    RoutingSession session = plain_session(model);
    const Tensor full =
        model.logits(training_context(tape, batch, session),
                     model.forward(training_context(tape, batch, session), batch.tokens).hidden);
    DecodeState state = model.start_decoding(pool_, 64);
    int64_t row = 0;
    for (const int64_t chunk : {5, 1, 1, 20, 1, 1}) {
      const SequenceLayout layout = SequenceLayout::single(pool_, chunk, row);
      ForwardContext context{tape, layout};
      context.routing = &session;
      session.begin_evaluation();
      const Tensor tokens =
          Tensor::of<int32_t>(pool_, {chunk},
                              std::vector<int32_t>(batch.tokens.data<int32_t>() + row,
                                                   batch.tokens.data<int32_t>() + row + chunk));
      const Tensor logits = model.logits(context, model.decode(context, tokens, state));
      session.end_evaluation();
      for (int64_t i = 0; i < logits.numel(); ++i) {
        ASSERT_NEAR(logits.data<float>()[i], full.data<float>()[row * 64 + i], 2e-5)
            << "row " << row + i / 64;
      }
      row += chunk;
    }
    EXPECT_EQ(state.length, 29);
  }
}

TEST_F(ModelTest, GradientsAgreeWithCentralDifferences) {
  ModelConfig config = tiny_config("AFAE", "f64");
  config.norm.type = "layer_norm";
  config.learned_positions = 64;
  attention_of(config).qk_norm = "per_head";
  attention_of(config).bias = "all";
  experts_of(config).shared = std::make_shared<SharedExpertsConfig>();
  testing_support::expect_model_gradients(config);
}

TEST_F(ModelTest, PredictsItsMemoryOnShapesAlone) {
  const ModelConfig config = tiny_config("AEAF");
  Pool shapes(Pool::Mode::shapes_only);
  Pool memory;
  std::array<int64_t, 2> peaks{};
  size_t which = 0;
  for (Pool* pool : {&shapes, &memory}) {
    const Model model(*pool, config, 1);
    const TinyBatch batch = tiny_batch(*pool, {{40, 9}, {17, 30}});
    zero_grads(model, *pool);
    pool->reset_peak();
    Tape tape(*pool);
    RoutingSession session = plain_session(model);
    const ForwardContext context = training_context(tape, batch, session);
    const Model::Loss loss = model.loss(context, batch.tokens, batch.targets);
    tape.backward(loss.total);
    peaks[which++] = pool->peak().total();
  }
  EXPECT_NEAR(static_cast<double>(peaks[0]), static_cast<double>(peaks[1]),
              0.01 * static_cast<double>(peaks[1]));
}

/// 0.5 at step 0, then 4.
class WideAfterTheFirstStep final : public ScheduleShape {
 public:
  void fields(FieldVisitor& /*visitor*/) override {}
  [[nodiscard]] double value(const Progress& progress) const override {
    return progress.step == 0 ? 0.5 : 4.0;
  }
  [[nodiscard]] Extremes extremes() const override { return {0.5, 4.0}; }
};

TEST_F(ModelTest, CapacityFollowsItsSchedule) {
  ModelConfig config = tiny_config("AE");
  experts_of(config).capacity_factor =
      Scheduled("wide_after_the_first_step", std::make_shared<WideAfterTheFirstStep>());
  const Model model(pool_, config, 1);
  const TinyBatch batch = tiny_batch(pool_, {{16}});
  const auto dropped_at = [&](int64_t step) {
    Tape tape(pool_);
    const NoGrad no_grad(tape);
    RoutingSession session = plain_session(model);
    ForwardContext context = training_context(tape, batch, session);
    context.progress.step = step;
    (void)model.token_losses(context, batch.tokens, batch.targets);
    return session.loads()[0].dropped;
  };
  // At most half of the 32 assignments fit, of which 2 have no loss; then all of them.
  EXPECT_GE(dropped_at(0), 14);
  EXPECT_EQ(dropped_at(1), 0);
}

TEST_F(ModelTest, ConfigsThatCannotBeAreRefusedWithTheReason) {
  ModelConfig heads = tiny_config("AF");
  attention_of(heads).num_heads = 5;
  attention_of(heads).num_kv_heads = 5;
  EXPECT_EQ(
      heads.check(),
      "attention.num_heads: found 5, allowed a divisor of hidden_size (32), or give head_dim");
  ModelConfig groups = tiny_config("AF");
  attention_of(groups).num_kv_heads = 3;
  EXPECT_EQ(attention_of(groups).check(),
            "num_kv_heads: found 3, allowed a divisor of num_heads (4)");
  ModelConfig top_k = tiny_config("AE");
  experts_of(top_k).top_k = 9.0;
  EXPECT_EQ(experts_of(top_k).check(),
            "top_k: found 9, allowed a whole number from 1 to 4 (num_experts)");
  experts_of(top_k).top_k = 1.0;
  EXPECT_EQ(experts_of(top_k).check(),
            "top_k: 1 with renormalise weights gives the router no gradient; use weights: as_is");
}

}  // namespace
}  // namespace sluice
