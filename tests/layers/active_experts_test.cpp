// What is said before a run about the experts per token is what routers at their initial values do.

#include "layers/active_experts.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/rng.h"
#include "layers/ffns/moe.h"
#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

using Known = ActiveExperts::Known;
using nlohmann::json;

constexpr int64_t kExperts = 8;
constexpr int64_t kWidth = 64;
constexpr double kInitStd = 0.1;

class ActiveExpertsOf : public testing::RouterFixture {
 protected:
  [[nodiscard]] static ActiveExpertsQuery query(int64_t top_k, const Progress& progress = {}) {
    return {.num_experts = kExperts,
            .top_k = top_k,
            .progress = progress,
            .initial_logit_std = kInitStd * std::sqrt(static_cast<double>(kWidth))};
  }
  [[nodiscard]] static ActiveExperts of(const std::string& router, const json& options,
                                        const ActiveExpertsQuery& query) {
    const auto config = router_registry().at(router).make_config();
    testing::set_fields(*config, options);
    return dynamic_cast<const RouterConfig&>(*config).active_experts(query);
  }
  /// Experts per token of 100 routers of different seeds on 40 normalised tokens each, in training.
  [[nodiscard]] double measured(const std::string& router, const json& options, int64_t top_k) {
    const RouterEntry& entry = router_registry().at(router);
    const auto config = entry.make_config();
    testing::set_fields(*config, options);
    init_.std = kInitStd;
    constexpr int64_t kRouters = 100;
    constexpr int64_t kTokens = 40;
    int64_t assignments = 0;
    for (uint64_t seed = 0; seed < kRouters; ++seed) {
      router_ = entry.make(
          Builder(pool_, DType::f64, seed, init_, 1).child("router"),
          {.hidden_size = kWidth, .num_experts = kExperts, .layer = 0, .top_k = top_k}, *config);
      const testing::Routed routed =
          route(normalised_tokens(kTokens, seed), top_k, {.training = true, .seed = seed});
      for (const int64_t load : routed.selection.load) assignments += load;
    }
    return static_cast<double>(assignments) / (kRouters * kTokens);
  }
  [[nodiscard]] Tensor normalised_tokens(int64_t count, uint64_t seed) {
    Tensor x = Tensor::empty(pool_, {count, kWidth}, DType::f64);
    const RandomKey key{seed};
    for (int64_t t = 0; t < count; ++t) {
      double squares = 0.0;
      double* row = x.data<double>() + t * kWidth;
      for (int64_t d = 0; d < kWidth; ++d) {
        row[d] = normal(key, static_cast<uint64_t>(t), static_cast<uint64_t>(d));
        squares += row[d] * row[d];
      }
      for (int64_t d = 0; d < kWidth; ++d) row[d] /= std::sqrt(squares / kWidth);
    }
    return x;
  }
  /// The prediction is bounded by [1, k] and within 2 % of what is measured, with standard errors
  /// of both of about half a percent.
  void expect_measured(const std::string& router, const json& options, int64_t top_k) {
    const ActiveExperts said = of(router, options, query(top_k));
    EXPECT_EQ(said.known, Known::at_initial_values);
    EXPECT_EQ(said.least, 1.0);
    EXPECT_EQ(said.greatest, static_cast<double>(top_k));
    const double counted = measured(router, options, top_k);
    EXPECT_NEAR(said.expected, counted, 0.02 * counted) << router << " " << options.dump();
  }
};

TEST_F(ActiveExpertsOf, TopKAreKAtEveryStep) {
  EXPECT_EQ(of("top_k", json::object(), query(3)), ActiveExperts::exactly(3.0));
}

TEST_F(ActiveExpertsOf, TopPAreThoseOfInitialLogits) {
  for (const double threshold : {0.2, 0.5, 0.8}) {
    expect_measured("top_p", {{"threshold", threshold}}, kExperts);
  }
  expect_measured("top_p", {{"threshold", 0.5}}, 3);
  EXPECT_EQ(of("top_p", {{"threshold", 1.0}}, query(6)), ActiveExperts::exactly(6.0));
}

TEST_F(ActiveExpertsOf, DenseToSparseAreThoseOfInitialLogitsAndNoise) {
  for (const double temperature : {2.0, 0.5, 0.1}) {
    expect_measured("dense_to_sparse", {{"temperature", temperature}, {"threshold", 0.05}},
                    kExperts);
  }
  expect_measured("dense_to_sparse", {{"noise", 0.0}, {"threshold", 0.1}}, kExperts);
}

TEST_F(ActiveExpertsOf, DenseToSparseIsOneWhereTheRecipeSaysSo) {
  const json options = {{"one_expert_after", "100 steps"}};
  EXPECT_GT(of("dense_to_sparse", options, query(8, {.step = 99})).expected, 1.0);
  EXPECT_EQ(of("dense_to_sparse", options, query(8, {.step = 100})), ActiveExperts::exactly(1.0));
}

TEST_F(ActiveExpertsOf, NullExpertsAreTheTrueOnesShare) {
  const ActiveExperts said = of("null_experts", {{"num_null_experts", 4}}, query(3));
  EXPECT_DOUBLE_EQ(said.expected, 3.0 * 8.0 / 12.0);
  EXPECT_EQ(said.least, 0.0);
  EXPECT_EQ(said.greatest, 3.0);
  const double counted = measured("null_experts", {{"num_null_experts", 4}}, 3);
  EXPECT_NEAR(said.expected, counted, 0.03 * counted);
  // Of five choices among eight true and two null experts at least three are true.
  EXPECT_EQ(of("null_experts", {{"num_null_experts", 2}}, query(5)).least, 3.0);
}

TEST_F(ActiveExpertsOf, HashesAreTheDifferentOnesOfK) {
  const ActiveExperts said = of("hash", json::object(), query(3));
  EXPECT_DOUBLE_EQ(said.expected, 8.0 * (1.0 - std::pow(7.0 / 8.0, 3)));
  EXPECT_NEAR(measured("hash", json::object(), 3), said.expected, 0.2);
  EXPECT_EQ(of("hash", {{"by", "position"}}, query(3)).known, Known::within_bounds);
  EXPECT_EQ(of("hash", {{"by", "position"}}, query(1)), ActiveExperts::exactly(1.0));
}

TEST_F(ActiveExpertsOf, EveryRouterLieWithinTheirBounds) {
  for (const Choice& choice : router_choices()) {
    const auto config = choice.make_config();
    const auto& router = dynamic_cast<const RouterConfig&>(*config);
    for (const int64_t k : {int64_t{1}, int64_t{2}, kExperts}) {
      const ActiveExperts said = router.active_experts(query(k));
      EXPECT_LE(0.0, said.least) << choice.name;
      EXPECT_LE(said.least, said.expected) << choice.name;
      EXPECT_LE(said.expected, said.greatest) << choice.name;
      // Where experts choose, a token may be everyone's choice.
      const int64_t most = router.varies_k() ? kExperts : k;
      EXPECT_LE(said.greatest, static_cast<double>(most)) << choice.name;
    }
  }
}

TEST_F(ActiveExpertsOf, ACapacityAreBetweenWhatRoomThereIsAndWhatAllWouldUse) {
  ExpertsConfig config;
  config.num_experts = kExperts;
  config.top_k = 2.0;
  const ActiveExperts chosen = config.active_experts(query(2));
  EXPECT_EQ(config.with_capacity(query(2), chosen), chosen);
  config.capacity_factor = 1.0;  // an expert takes 2/8 of the tokens
  EXPECT_EQ(config.with_capacity(query(2), chosen), ActiveExperts::within_bounds(0.5, 2.0));
  config.capacity_factor = 0.5;
  EXPECT_EQ(config.with_capacity(query(2), chosen), ActiveExperts::within_bounds(0.25, 1.0));
  config.capacity_factor = 4.0;  // every expert has room for every token
  EXPECT_EQ(config.with_capacity(query(2), chosen), chosen);
}

}  // namespace
}  // namespace sluice
