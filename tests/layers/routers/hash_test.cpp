#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class Hash : public testing::RouterFixture {
 protected:
  [[nodiscard]] std::vector<int32_t> experts_of(const std::vector<int32_t>& ids, bool training) {
    const Tensor x = Tensor::zeros(pool_, {static_cast<int64_t>(ids.size()), width_}, DType::f64);
    return route(x, 1, {.training = training, .token_ids = ids}).selection.expert;
  }
};

TEST_F(Hash, BalancedTableFillsTheLeastLoadedExpert) {
  make("hash", {{"by", "balanced"}, {"frequencies", {50, 30, 20, 20, 10, 10, 5, 5}}},
       {.experts = 4, .top_k = 1});
  EXPECT_EQ(experts_of({0, 1, 2, 3, 4, 5, 6, 7}, true),
            (std::vector<int32_t>{0, 1, 2, 3, 2, 3, 1, 2}));
}

TEST_F(Hash, BalancedTableSendsUnknownIdsByTheRandomOne) {
  make("hash", {{"by", "balanced"}, {"frequencies", {1.0, 1.0}}}, {.experts = 4, .top_k = 1});
  const auto balanced = experts_of({0, 1, 100, 200, 300}, true);
  make("hash", {}, {.experts = 4, .top_k = 1});
  const auto random = experts_of({0, 1, 100, 200, 300}, true);
  EXPECT_EQ(balanced[0], 0);
  EXPECT_EQ(balanced[1], 1);
  for (size_t i = 2; i < 5; ++i) EXPECT_EQ(balanced[i], random[i]);
}

TEST_F(Hash, OfThePositionFollowsThePublishedMultipliers) {
  const std::vector<int32_t> ids(12, 7);
  make("hash", {{"by", "position"}}, {.experts = 8, .top_k = 1, .layer = 3});
  EXPECT_EQ(experts_of(ids, true), (std::vector<int32_t>{3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0}));
  make("hash", {{"by", "position"}, {"seed", 1}}, {.experts = 8, .top_k = 1, .layer = 3});
  EXPECT_EQ(experts_of(ids, true), (std::vector<int32_t>{0, 7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5}));
}

TEST_F(Hash, OfThePositionBalancesFullCycles) {
  make("hash", {{"by", "position"}}, {.experts = 8, .top_k = 1});
  const auto routed = route(Tensor::zeros(pool_, {64, 8}, DType::f64), 1);
  EXPECT_EQ(routed.selection.load, std::vector<int64_t>(8, 8));
}

TEST_F(Hash, SendsAnIdToOneExpertInTrainingAndEvaluationAtAnyStep) {
  make("hash", {}, {.experts = 8, .top_k = 1});
  std::vector<int32_t> ids(500);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % 250);
  const auto training = experts_of(ids, true);
  EXPECT_EQ(training, experts_of(ids, false));
  for (size_t i = 0; i < 250; ++i) EXPECT_EQ(training[i], training[i + 250]);
  const Tensor x = Tensor::zeros(pool_, {500, width_}, DType::f64);
  const auto later =
      route(x, 1, {.training = true, .progress = {.step = 99}, .seed = 5, .token_ids = ids});
  EXPECT_EQ(later.selection.expert, training);
  for (const double weight : later.weights) EXPECT_EQ(weight, 1.0);
}

TEST_F(Hash, RandomTableIsUniformAndDiffersByLayerAndSeed) {
  std::vector<int32_t> ids(8000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  const auto table = [&](int64_t layer, int64_t seed) {
    make("hash", {{"seed", seed}}, {.experts = 8, .top_k = 1, .layer = layer});
    return experts_of(ids, false);
  };
  const auto first = table(0, 0);
  std::vector<int> load(8, 0);
  for (const int32_t expert : first) ++load[static_cast<size_t>(expert)];
  for (const int count : load) EXPECT_NEAR(count, 1000, 150);  // five standard deviations
  EXPECT_NE(first, table(1, 0));
  EXPECT_NE(first, table(0, 1));
}

TEST_F(Hash, SeveralHashesShareTheWeight) {
  make("hash", {}, {.experts = 4, .top_k = 2});
  const auto routed = route(Tensor::zeros(pool_, {64, 4}, DType::f64), 2);
  int64_t collisions = 0;
  for (size_t t = 0; t < 64; ++t) {
    EXPECT_EQ(routed.weights[2 * t] + routed.weights[2 * t + 1], 1.0);
    const bool collides = routed.selection.expert[2 * t + 1] == kNoExpert;
    EXPECT_EQ(routed.weights[2 * t], collides ? 1.0 : 0.5);
    collisions += collides ? 1 : 0;
  }
  EXPECT_GT(collisions, 0);
}

TEST_F(Hash, ListensToNoShift) {
  make("hash", {}, {.experts = 4, .top_k = 1});
  const Tensor x = Tensor::zeros(pool_, {20, 4}, DType::f64);
  EXPECT_EQ(route(x, 1, {.shift = {9.0, 0.0, 0.0, 0.0}}).selection, route(x, 1).selection);
}

TEST_F(Hash, WantsFrequenciesWhereItUsesThem) {
  const auto problem = [](const nlohmann::json& options) {
    const auto config = router_registry().at("hash").make_config();
    testing::set_fields(*config, options);
    return config->check();
  };
  EXPECT_EQ(problem(nlohmann::json::object()), "");
  EXPECT_EQ(problem({{"by", "balanced"}}),
            "frequencies: found none, allowed one number per token id for by: balanced");
  EXPECT_EQ(problem({{"frequencies", {1.0, 2.0}}}),
            "frequencies: found some, allowed for by: balanced only");
}

}  // namespace
}  // namespace sluice
