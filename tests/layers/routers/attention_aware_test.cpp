#include "tests/layers/routers/mixed_scores.h"

namespace sluice {
namespace {

using testing::mixed;
using testing::model_with;

class AttentionAware : public testing::MixedScores {};

TEST_F(AttentionAware, AgreesWithTheWorkedExample) {
  // Rows (1, 0, 0), (.7, .3, 0), (.2, .3, .5) as logarithms against unit keys; later tokens are
  // out of sight whatever stands there.
  const std::vector<double> q = {
      0, 0, 0, std::log(.7), std::log(.3), 0, std::log(.2), std::log(.3), std::log(.5)};
  const std::vector<double> k = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  give_attention(
      {Tensor::of<double>(pool_, {3, 1, 3}, q), Tensor::of<double>(pool_, {3, 1, 3}, k)});
  make_of_logits("attention_aware", {}, {.experts = 2});
  const auto routed = route(logarithms({.9, .1, .4, .6, .2, .8}, 2), 2);
  expect_near(testing::numbers(routed.scores.scores), {.9, .1, .75, .25, .40, .60});
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{0, 1, 0, 1, 1, 0}));
  expect_near(routed.weights, {.9, .1, .75, .25, .60, .40});
}

TEST_F(AttentionAware, AveragesHeadsInsideDocuments) {
  // More experts than a head is wide: the scores go through in parts.
  const Tensor x = random_rows(11, 5);
  const auto plain = scores_of("top_k", {}, x, 7);
  two_documents(4, 7);
  const auto scores = scores_of("attention_aware", {}, x, 7);
  std::vector<double> expected(scores.size(), 0.0);
  const auto q = testing::numbers(attention_.q);
  const auto k = testing::numbers(attention_.k);
  for (size_t head = 0; head < 4; ++head) {
    const auto of_head = mixed(plain, 7, {0, 4, 11}, [&](int64_t t, int64_t j) {
      double dot = 0.0;
      for (size_t i = 0; i < 3; ++i) {
        dot += q[(static_cast<size_t>(t) * 4 + head) * 3 + i] *
               k[(static_cast<size_t>(j) * 2 + head / 2) * 3 + i];
      }
      return 0.7 * dot;
    });
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += of_head[i] / 4.0;
  }
  expect_near(scores, expected);
}

TEST_F(AttentionAware, SeesThroughTheWindow) {
  give_attention({waves(0, 9, 1, 1.0), waves(0, 9, 1, 2.0), 1.0, 1});
  // A window of one token leaves every token to itself.
  const Tensor x = random_rows(9, 5);
  const auto plain = scores_of("top_k", {}, x, 4);
  expect_near(scores_of("attention_aware", {}, x, 4), plain);
}

TEST_F(AttentionAware, StopsGradientsAtTheMapUnlessTold) {
  const Tensor x = random_rows(6, 5);
  for (const bool detach : {true, false}) {
    make("attention_aware", {{"detach", detach}}, {.experts = 4, .hidden_size = 5});
    Tape tape(pool_);
    const Tensor q = tape.input(waves(0, 6, 2, 1.0));
    const Tensor k = tape.input(waves(0, 6, 2, 2.0));
    give_attention({q, k, 0.5});
    (void)route_on(tape, x, 2);
    const Tensor outputs[] = {last_weights_};
    const Tensor grads[] = {SampleFactory(pool_, DType::f64, 2).uniform({6, 2}, -1.0, 1.0)};
    tape.backward(outputs, grads);
    EXPECT_EQ(tape.gradient(q).defined(), !detach);
    EXPECT_EQ(tape.gradient(k).defined(), !detach);
  }
  // Against differences, of the queries and keys.
  make("attention_aware", {{"detach", false}}, {.experts = 4, .hidden_size = 5});
  const OpSample sample = {
      .label = "map",
      .inputs = {waves(0, 6, 2, 1.0), waves(0, 6, 2, 2.0)},
      .differentiable = {true, true},
      .apply = [&](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
        give_attention({in[0], in[1], 0.5});
        const auto routed = route_on(tape, x, 2);
        return {last_weights_, routed.scores.probabilities};
      }};
  const GradcheckReport report = gradcheck(pool_, sample);
  EXPECT_TRUE(report.passed) << report.message;
}

TEST_F(AttentionAware, GradientsOfAWholeModelAgreeWithDifferences) {
  // Also through queries and keys into the attention layer's weights, and for two readers of one.
  testing_support::expect_model_gradients(
      model_with("AEFE", "attention_aware", {{"detach", false}}));
}

TEST_F(AttentionAware, RefusesAModelWithoutAttentionBefore) {
  EXPECT_EQ(model_with("AEE", "attention_aware", {}).check(), "");
  EXPECT_EQ(model_with("EAE", "attention_aware", {}).check(),
            "experts.router: found type attention_aware, which reads the attention of an earlier "
            "layer, but pattern \"EAE\" has none before its first expert layer (E); put an "
            "attention layer (A) before it");
}

}  // namespace
}  // namespace sluice
