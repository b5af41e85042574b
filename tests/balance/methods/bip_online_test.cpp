#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::load_state;
using testing::make_one;
using testing::numbers_of;
using testing::RoutedBatch;
using testing::RoutedBatchOptions;
using testing::ScoreFunction;
using testing::state_of;

std::vector<double> prices_of(Balancer& balancer) {
  return numbers_of(state_of(balancer), "bip_online/prices");
}

double rth_largest(std::vector<double> values, size_t r) {
  if (r > values.size()) return 0.0;
  std::ranges::sort(values, std::greater<>());
  return std::max(0.0, values[r - 1]);
}

/// The algorithm with everything kept and sorted anew: experts of every token, and the last prices.
struct Reference {
  std::vector<int32_t> expert;
  std::vector<double> q;
};
Reference reference(const Tensor& scores, size_t k, int iterations) {
  const auto s = scores.span<double>();
  const auto experts = static_cast<size_t>(scores.dim(1));
  const size_t tokens = s.size() / experts;
  const size_t capacity = tokens * k / experts;
  Reference result{{}, std::vector<double>(experts, 0.0)};
  std::vector<std::vector<double>> offers(experts);
  for (size_t t = 0; t < tokens; ++t) {
    double p = 0.0;
    for (int i = 0; i < iterations; ++i) {
      std::vector<double> net;
      for (size_t e = 0; e < experts; ++e) net.push_back(s[t * experts + e] - result.q[e]);
      p = rth_largest(net, k + 1);
      for (size_t e = 0; e < experts; ++e) {
        auto with = offers[e];
        with.push_back(s[t * experts + e] - p);
        result.q[e] = rth_largest(with, capacity + 1);
      }
    }
    std::vector<std::pair<double, int32_t>> ranked;
    for (size_t e = 0; e < experts; ++e) {
      offers[e].push_back(s[t * experts + e] - p);
      ranked.emplace_back(-(s[t * experts + e] - result.q[e]), static_cast<int32_t>(e));
    }
    std::ranges::sort(ranked);
    for (size_t j = 0; j < k; ++j) result.expert.push_back(ranked[j].second);
  }
  return result;
}

class BipOnline : public ::testing::Test {
 protected:
  Tensor random_scores(int64_t tokens, int64_t experts, uint64_t seed = 1) {
    return SampleFactory(pool_, DType::f64, seed).uniform({tokens, experts}, 0.0, 1.0);
  }
  /// Multiples of 1/64: differences of them are exact, and edges of 64 bins.
  Tensor grid_scores(int64_t tokens, int64_t experts) {
    Tensor scores = random_scores(tokens, experts);
    for (double& score : scores.span<double>()) score = std::floor(score * 64.0) / 64.0;
    return scores;
  }
  [[nodiscard]] Selection route(Balancer& balancer, const Tensor& scores, int64_t top_k,
                                bool training = true) {
    Tape tape(pool_);
    return RoutedBatch(tape, scores, layout_of({scores.dim(0)}),
                       {.top_k = top_k, .scores = ScoreFunction::identity, .training = training})
        .route(balancer);
  }
  Pool pool_;
};

TEST_F(BipOnline, RoutesTokenByTokenAsThePageSays) {
  for (const int64_t k : {1, 2}) {
    for (const int iterations : {1, 4}) {
      const Tensor scores = random_scores(60, 5, static_cast<uint64_t>(k));
      const auto balancer = make_one("bip_online", 5, {{"iterations", iterations}});
      const auto expected = reference(scores, static_cast<size_t>(k), iterations);
      EXPECT_EQ(route(*balancer, scores, k).expert, expected.expert);
      EXPECT_EQ(prices_of(*balancer), expected.q);
    }
  }
}

TEST_F(BipOnline, HistogramsAreExactOnTheirGrid) {
  const Tensor scores = grid_scores(200, 6);
  const auto heaps = make_one("bip_online", 6);
  const auto bins = make_one("bip_online", 6, {{"form", "histogram"}, {"bins", 64}});
  EXPECT_EQ(route(*heaps, scores, 2), route(*bins, scores, 2));
  EXPECT_EQ(prices_of(*heaps), prices_of(*bins));
  const auto prices = prices_of(*heaps);
  EXPECT_GT(*std::ranges::max_element(prices), 0.0);
}

TEST_F(BipOnline, LooksAtNoLaterToken) {
  const Tensor scores = random_scores(50, 4);
  Tensor changed = scores.clone(pool_);
  for (int64_t i = 30 * 4; i < 50 * 4; ++i)
    changed.data<double>()[i] = 1.0 - changed.data<double>()[i];
  const auto one = route(*make_one("bip_online", 4), scores, 2);
  const auto other = route(*make_one("bip_online", 4), changed, 2);
  EXPECT_TRUE(std::equal(one.expert.begin(), one.expert.begin() + 60, other.expert.begin()));
  EXPECT_NE(one.expert, other.expert);
}

TEST_F(BipOnline, AWindowMaySpanMicroBatchesAndAResume) {
  const Tensor scores = random_scores(100, 4);
  const auto part = [&](int64_t begin, int64_t end) {
    return Tensor::of<double>(
        pool_, {end - begin, 4},
        scores.span<double>().subspan(static_cast<size_t>(4 * begin),
                                      static_cast<size_t>(4 * (end - begin))));
  };
  for (const std::string form : {"heaps", "histogram"}) {
    const nlohmann::json options = {{"window", 100}, {"form", form}};
    const auto whole = make_one("bip_online", 4, options);
    const auto expected = route(*whole, scores, 2);
    const auto first = make_one("bip_online", 4, options);
    const auto begin = route(*first, part(0, 37), 2);
    EXPECT_EQ(prices_of(*first), std::vector<double>(4, 0.0)) << "no window is over";
    const auto second = make_one("bip_online", 4, options);
    load_state(*second, state_of(*first));
    auto experts = begin.expert;
    const auto end = route(*second, part(37, 100), 2);
    experts.insert(experts.end(), end.expert.begin(), end.expert.end());
    EXPECT_EQ(experts, expected.expert);
    EXPECT_EQ(prices_of(*second), prices_of(*whole));
  }
}

// Not to the last token: of n that want an expert, about C (1 + ln(n / C)) are among the C best so
// far when they come.
TEST_F(BipOnline, BalancesAWindowBetterThanGreedyRouting) {
  Tensor scores = random_scores(512, 8);
  for (int64_t t = 0; t < 512; ++t) {
    for (int64_t e = 0; e < 8; ++e) {
      double& score = scores.data<double>()[8 * t + e];
      score = 0.5 * score + 0.06 * static_cast<double>(e);
    }
  }
  const auto largest = [](const Selection& selection) {
    return static_cast<double>(*std::ranges::max_element(selection.load)) / (512.0 * 2 / 8) - 1.0;
  };
  const double greedy = largest(route(*make_one("none", 8), scores, 2));
  for (const std::string form : {"heaps", "histogram"}) {
    const auto balancer = make_one("bip_online", 8, {{"form", form}});
    EXPECT_LT(largest(route(*balancer, scores, 2)), 0.75 * greedy) << form;
  }
}

TEST_F(BipOnline, EvaluatesWithThePricesOfTheLastWindow) {
  const auto balancer = make_one("bip_online", 4);
  (void)route(*balancer, random_scores(64, 4), 1);
  const StateDict before = state_of(*balancer);
  const auto q = prices_of(*balancer);
  const Tensor scores = random_scores(20, 4, 2);
  const auto selection = route(*balancer, scores, 1, /*training=*/false);
  EXPECT_EQ(state_of(*balancer), before);
  for (size_t t = 0; t < 20; ++t) {
    size_t best = 0;
    for (size_t e = 1; e < 4; ++e) {
      const auto net = [&](size_t at) { return scores.span<double>()[4 * t + at] - q[at]; };
      if (net(e) > net(best)) best = e;
    }
    EXPECT_EQ(selection.expert[t], static_cast<int32_t>(best));
  }
}

TEST_F(BipOnline, KeepsNoNaN) {
  Tensor scores = random_scores(40, 4);
  scores.data<double>()[7] = std::numeric_limits<double>::quiet_NaN();
  const auto balancer = make_one("bip_online", 4);
  (void)route(*balancer, scores, 2);
  for (const double price : prices_of(*balancer)) EXPECT_TRUE(std::isfinite(price));
}

}  // namespace
}  // namespace sluice
