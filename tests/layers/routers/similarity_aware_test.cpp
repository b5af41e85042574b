#include "tests/layers/routers/mixed_scores.h"

namespace sluice {
namespace {

using testing::mixed;
using testing::model_with;

class SimilarityAware : public testing::MixedScores {};

TEST_F(SimilarityAware, AveragesOverTokensThatResembleIt) {
  const Tensor x = random_rows(12, 5);
  const auto u = testing::numbers(x);
  const auto plain = scores_of("top_k", {}, x, 8);
  const auto cosine = [&](int64_t t, int64_t j) {
    double dot = 0.0;
    for (size_t d = 0; d < 5; ++d) {
      dot += u[static_cast<size_t>(t) * 5 + d] * u[static_cast<size_t>(j) * 5 + d];
    }
    return dot / 5.0;
  };
  two_documents(5, 7);
  for (const std::string metric : {"identity", "learned"}) {
    const auto scores =
        scores_of("similarity_aware", {{"temperature", 0.4}, {"metric", metric}}, x, 8);
    expect_near(scores, mixed(plain, 8, {0, 5, 12},
                              [&](int64_t t, int64_t j) { return cosine(t, j) / 0.4; }));
  }
}

TEST_F(SimilarityAware, IsPlainForUnitTokensWhenCold) {
  Tensor x = random_rows(9, 4);
  for (int64_t t = 0; t < 9; ++t) {
    double* row = x.data<double>() + 4 * t;
    const double length =
        std::sqrt(row[0] * row[0] + row[1] * row[1] + row[2] * row[2] + row[3] * row[3]);
    for (int64_t d = 0; d < 4; ++d) row[d] /= length;
  }
  expect_near(scores_of("similarity_aware", {{"temperature", 1e-5}}, x, 4),
              scores_of("top_k", {}, x, 4));
}

TEST_F(SimilarityAware, RoutesIdenticalTokensAlike) {
  std::vector<double> x;
  for (int t = 0; t < 6; ++t) x.insert(x.end(), {0.3, -1.0, 0.7, 0.2});
  make("similarity_aware");
  const auto routed = route(rows(x, 4), 2);
  for (size_t i = 2; i < 12; ++i) {
    EXPECT_EQ(routed.selection.expert[i], routed.selection.expert[i % 2]);
    EXPECT_NEAR(routed.weights[i], routed.weights[i % 2], 1e-14);
  }
}

TEST_F(SimilarityAware, GradientAgreesWithDifferences) {
  for (const nlohmann::json& options : {nlohmann::json{{"temperature", 0.5}},
                                        {{"metric", "learned"}, {"temperature", 0.5}},
                                        {{"scores", "sigmoid"}, {"temperature", 0.5}}}) {
    make("similarity_aware", options, {.experts = 6, .hidden_size = 4});
    expect_gradient(random_rows(7, 4), 2);
  }
}

TEST_F(SimilarityAware, IsAConstantWhenDetached) {
  const auto grads = [&](bool detach, int64_t tokens) {
    make("similarity_aware", {{"detach", detach}, {"weights", "as_is"}, {"temperature", 0.5}});
    std::vector<double> grad = {1, -2, 3, 4, -5, 6};
    grad.resize(static_cast<size_t>(2 * tokens));
    return gradient(random_rows(tokens, 4), 2, grad);
  };
  // The map of a single token is 1, whatever the token.
  expect_near(grads(true, 1), grads(false, 1));
  EXPECT_NE(grads(true, 3), grads(false, 3));
}

TEST_F(SimilarityAware, RefusesWeightsOfLogits) {
  const auto config = router_registry().at("similarity_aware").make_config();
  EXPECT_EQ(config->check(), "");
  testing::set_fields(*config, {{"weights", "softmax_after"}});
  EXPECT_EQ(config->check(),
            "weights: found softmax_after, allowed renormalise or as_is (mixed scores have no "
            "logits)");
}

TEST_F(SimilarityAware, GradientsOfAWholeModelAgreeWithDifferences) {
  testing_support::expect_model_gradients(
      model_with("AE", "similarity_aware", {{"metric", "learned"}}));
}

}  // namespace
}  // namespace sluice
