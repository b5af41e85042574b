#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::load_of;
using testing::make_one;
using testing::numbers_of;
using testing::RoutedBatch;
using testing::RoutedBatchOptions;
using testing::ScoreFunction;
using testing::state_of;

std::vector<double> prices_of(Balancer& balancer) {
  return numbers_of(state_of(balancer), "quantile/prices");
}

/// Two ranks: this one and one that has `other` to add.
class TwoRanks final : public Communicator {
 public:
  explicit TwoRanks(StateArray other) : other_(std::move(other)) {}
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 2; }
  void sum(std::span<double> values) override { add(values); }
  void sum(std::span<float> values) override { add(values); }
  void sum(std::span<int64_t> values) override { add(values); }
  void barrier() override {}

 private:
  template <class T>
  void add(std::span<T> values) {
    const auto other = other_.values<T>();
    ASSERT_TRUE(other.empty() || other.size() == values.size());
    for (size_t i = 0; i < other.size(); ++i) values[i] += other[i];
  }
  StateArray other_;
};

class QuantileTest : public ::testing::Test {
 protected:
  /// The worked example of bip, in units of 1/64; its greedy load is (5, 0, 1).
  template <class T>
  Tensor example() {
    std::vector<T> scores = {45, 13, 6, 38, 19, 7, 35, 10, 19, 32, 26, 6, 29, 22, 13, 13, 19, 32};
    for (T& score : scores) score /= 64;
    return Tensor::of<T>(pool_, {6, 3}, scores);
  }
  Tensor random_scores(int64_t tokens, int64_t experts, uint64_t seed = 1) {
    SampleFactory factory(pool_, DType::f64, seed);
    return factory.uniform({tokens, experts}, 0.0, 1.0);
  }
  /// Rows begin .. end-1 of a matrix.
  Tensor rows(const Tensor& matrix, int64_t begin, int64_t end) {
    const int64_t width = matrix.dim(1);
    return Tensor::of<double>(
        pool_, {end - begin, width},
        matrix.span<double>().subspan(static_cast<size_t>(begin * width),
                                      static_cast<size_t>((end - begin) * width)));
  }
  /// Routes a micro-batch of scores in training.
  Selection route(Balancer& balancer, const Tensor& scores, int64_t top_k = 1) {
    Tape tape(pool_);
    const RoutedBatch batch(tape, scores, layout_of({scores.dim(0)}), options(top_k));
    return batch.route(balancer);
  }
  /// A whole step of one micro-batch; returns its load.
  std::vector<int64_t> step(Balancer& balancer, const Tensor& scores, int64_t top_k = 1) {
    const Selection selection = route(balancer, scores, top_k);
    balancer.end_step(load_of(selection, layout_of({scores.dim(0)})), {});
    return selection.load;
  }
  static RoutedBatchOptions options(int64_t top_k) {
    return {.top_k = top_k, .scores = ScoreFunction::identity};
  }
  Pool pool_;
};

TEST_F(QuantileTest, SolvesTheWorkedExampleInBothPrecisions) {
  for (const Tensor& scores : {example<float>(), example<double>()}) {
    const auto balancer = make_one("quantile", 3);
    EXPECT_EQ(step(*balancer, scores), (std::vector<int64_t>{5, 0, 1}));
    // (16, 0, -7) less their mean.
    EXPECT_EQ(prices_of(*balancer), (std::vector<double>{13.0 / 64, -3.0 / 64, -10.0 / 64}));
    const Selection balanced = route(*balancer, scores);
    EXPECT_EQ(balanced.load, (std::vector<int64_t>{2, 2, 2}));
    // The best balanced score: 45 + 38 + 19 + 26 + 22 + 32 = 182.
    EXPECT_EQ(balanced.expert, (std::vector<int32_t>{0, 0, 2, 1, 1, 2}));
  }
}

TEST_F(QuantileTest, RepeatsItsRoundsWithinAMicroBatchAsSuccessiveStepsWould) {
  const Tensor scores = random_scores(256, 8);
  const auto twice = make_one("quantile", 8, {{"iterations", 2}});
  const auto once = make_one("quantile", 8);
  (void)step(*twice, scores, 2);
  (void)step(*once, scores, 2);
  (void)step(*once, scores, 2);
  const auto a = prices_of(*twice);
  const auto b = prices_of(*once);
  for (size_t e = 0; e < 8; ++e) EXPECT_NEAR(a[e], b[e], 1e-15);
}

TEST_F(QuantileTest, KeepsTheMeanOfItsPricesAtZero) {
  for (const std::string pooling : {"mean", "histogram"}) {
    const auto balancer = make_one("quantile", 8, {{"pooling", pooling}});
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      (void)step(*balancer, random_scores(100, 8, seed), 2);
      const auto prices = prices_of(*balancer);
      EXPECT_NEAR(std::accumulate(prices.begin(), prices.end(), 0.0), 0.0, 1e-14);
    }
  }
}

TEST_F(QuantileTest, AgreesWithBipWhereNoPriceIsTruncated) {
  // Two tokens, two experts: p = (0.5, 0.6), q = (0.2, 0), all from 0 up.
  const Tensor scores = Tensor::of<double>(pool_, {2, 2}, std::vector<double>{0.9, 0.5, 0.8, 0.6});
  const auto quantile = make_one("quantile", 2);
  const auto bip = make_one("bip", 2, {{"iterations", 1}});
  (void)step(*quantile, scores);
  (void)step(*bip, scores);
  const auto q = numbers_of(state_of(*bip), "bip/prices");
  EXPECT_NEAR(q[0], 0.2, 1e-15);
  EXPECT_NEAR(q[1], 0.0, 1e-15);
  const auto beta = prices_of(*quantile);
  EXPECT_NEAR(beta[0] - beta[1], q[0] - q[1], 1e-15);
}

TEST_F(QuantileTest, RoutesAWholeStepWithThePricesOfTheStepBefore) {
  const auto balancer = make_one("quantile", 3);
  for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
    EXPECT_EQ(route(*balancer, example<double>()).load, (std::vector<int64_t>{5, 0, 1}));
  }
  balancer->end_step(load_of({15, 0, 3}), {});
  EXPECT_EQ(route(*balancer, example<double>()).load, (std::vector<int64_t>{2, 2, 2}));
  EXPECT_FALSE(balancer->traits().batch_dependent);
}

TEST_F(QuantileTest, WeighsTheMicroBatchesByTheirTokens) {
  const Tensor scores = random_scores(90, 4);
  const auto price_alone = [&](int64_t begin, int64_t end) {
    const auto balancer = make_one("quantile", 4);
    (void)step(*balancer, rows(scores, begin, end), 2);
    return prices_of(*balancer);
  };
  const auto first = price_alone(0, 30);
  const auto second = price_alone(30, 90);
  const auto balancer = make_one("quantile", 4);
  (void)route(*balancer, rows(scores, 0, 30), 2);
  (void)route(*balancer, rows(scores, 30, 90), 2);
  balancer->end_step(load_of({45, 45, 45, 45}, 2), {});
  const auto both = prices_of(*balancer);
  for (size_t e = 0; e < 4; ++e) {
    EXPECT_NEAR(both[e], (first[e] + 2.0 * second[e]) / 3.0, 1e-15);
  }
}

TEST_F(QuantileTest, OfAHistogramDoesNotDependOnHowTheTokensAreSharded) {
  const Tensor scores = random_scores(120, 6);
  const LayerLoad load = load_of({40, 40, 40, 40, 40, 40}, 2);
  const auto prices_after = [&](const std::string& pooling, const std::vector<int64_t>& cuts) {
    const auto balancer = make_one("quantile", 6, {{"pooling", pooling}});
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      (void)route(*balancer, rows(scores, cuts[i], cuts[i + 1]), 2);
    }
    balancer->end_step(load, {});
    return prices_of(*balancer);
  };
  const std::vector<int64_t> whole = {0, 120};
  for (const auto& cuts : {std::vector<int64_t>{0, 7, 120}, {0, 60, 61, 100, 120}}) {
    EXPECT_EQ(prices_after("histogram", cuts), prices_after("histogram", whole));
    EXPECT_NE(prices_after("mean", cuts), prices_after("mean", whole));
  }
}

TEST_F(QuantileTest, OfAHistogramIsTheQuantileToTheWidthOfABin) {
  const Tensor scores = random_scores(500, 6);
  const auto exact = make_one("quantile", 6);
  const auto binned = make_one("quantile", 6, {{"pooling", "histogram"}, {"bins", 4000}});
  for (int i = 0; i < 3; ++i) {
    (void)step(*exact, scores, 2);
    (void)step(*binned, scores, 2);
  }
  const auto a = prices_of(*exact);
  const auto b = prices_of(*binned);
  // Three steps, each off by at most a bin of about 2 / 4000 and the gap to the next value.
  for (size_t e = 0; e < 6; ++e) EXPECT_NEAR(a[e], b[e], 0.003);
}

TEST_F(QuantileTest, SumsOverRanksWhatAStepGathered) {
  const Tensor scores = random_scores(90, 4);
  for (const auto& [pooling, path] : std::vector<std::pair<std::string, std::string>>{
           {"mean", "quantile/sums"}, {"histogram", "quantile/histogram"}}) {
    const nlohmann::json options = {{"pooling", pooling}};
    const auto single = make_one("quantile", 4, options);
    (void)route(*single, rows(scores, 0, 30), 2);
    (void)route(*single, rows(scores, 30, 90), 2);
    const auto rank0 = make_one("quantile", 4, options);
    (void)route(*rank0, rows(scores, 0, 30), 2);
    const auto rank1 = make_one("quantile", 4, options);
    (void)route(*rank1, rows(scores, 30, 90), 2);
    const auto idle = make_one("quantile", 4, options);

    const LayerLoad load = load_of({45, 45, 45, 45}, 2);
    const StateArray whole = state_of(*single).at(path);
    TwoRanks beside_rank1(state_of(*rank1).at(path));
    rank0->reduce(beside_rank1);
    TwoRanks beside_single(whole);
    idle->reduce(beside_single);
    SingleRank alone;
    single->reduce(alone);
    for (Balancer* balancer : {single.get(), rank0.get(), idle.get()}) balancer->end_step(load, {});
    EXPECT_EQ(prices_of(*rank0), prices_of(*single));
    EXPECT_EQ(prices_of(*idle), prices_of(*single));
  }
}

TEST_F(QuantileTest, ForgetsAStepThatIsTakenBack) {
  for (const std::string pooling : {"mean", "histogram"}) {
    const auto balancer = make_one("quantile", 3, {{"pooling", pooling}});
    const StateDict before = state_of(*balancer);
    (void)route(*balancer, example<double>());
    EXPECT_NE(state_of(*balancer), before);
    testing::load_state(*balancer, before);
    balancer->end_step(load_of({5, 0, 1}), {});
    EXPECT_EQ(state_of(*balancer), before);
    (void)step(*balancer, example<double>());
    // Between steps only the prices hold anything.
    for (const auto& [path, array] : state_of(*balancer)) {
      EXPECT_EQ(array.bytes.empty(), path != "quantile/prices") << path;
    }
  }
}

TEST_F(QuantileTest, KeepsAShareOfTheOldPrices) {
  const auto balancer = make_one("quantile", 3, {{"momentum", 0.75}});
  (void)step(*balancer, example<double>());
  EXPECT_EQ(prices_of(*balancer), (std::vector<double>{13.0 / 256, -3.0 / 256, -10.0 / 256}));
}

TEST_F(QuantileTest, LeavesMaskedTokensOutOfThePrices) {
  std::vector<double> scores = {0.0, 1.0, 0.0};
  const Tensor given = example<double>();
  const auto values = given.span<double>();
  scores.insert(scores.end(), values.begin(), values.end());
  SequenceLayout layout = layout_of({7});
  layout.counted[0] = 0;
  Tape tape(pool_);
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {7, 3}, scores), layout, options(1));
  const auto balancer = make_one("quantile", 3);
  balancer->end_step(load_of(batch.route(*balancer), layout), {});
  EXPECT_EQ(prices_of(*balancer), (std::vector<double>{13.0 / 64, -3.0 / 64, -10.0 / 64}));
}

TEST_F(QuantileTest, DoesNotKeepPricesOfABatchWithNan) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::string pooling : {"mean", "histogram"}) {
    const auto balancer = make_one("quantile", 3, {{"pooling", pooling}});
    (void)step(*balancer, example<double>());
    for (const double bad : {infinity, -infinity, nan}) {
      const std::vector<double> scores(18, bad);
      (void)step(*balancer, Tensor::of<double>(pool_, {6, 3}, scores));
      for (const double price : prices_of(*balancer)) EXPECT_TRUE(std::isfinite(price));
    }
  }
}

TEST_F(QuantileTest, LeavesItsPricesAloneWhenEveryExpertIsChosen) {
  const auto balancer = make_one("quantile", 3);
  (void)step(*balancer, example<double>(), 3);
  EXPECT_EQ(prices_of(*balancer), (std::vector<double>{0.0, 0.0, 0.0}));
}

TEST_F(QuantileTest, RefusesBinsWithoutAHistogram) {
  EXPECT_EQ(testing::method("quantile", {{"bins", 50}}).config->check(),
            "bins: found 50, read by pooling: histogram only");
  const nlohmann::json histogram = {{"pooling", "histogram"}, {"bins", 50}};
  EXPECT_EQ(testing::method("quantile", histogram).config->check(), "");
}

TEST_F(QuantileTest, RefusesRoundsWithAHistogram) {
  const Tagged tagged = testing::method("quantile", {{"pooling", "histogram"}, {"iterations", 4}});
  EXPECT_EQ(tagged.config->check(), "iterations: found 4, allowed 1 (pooling: histogram)");
}

}  // namespace
}  // namespace sluice
