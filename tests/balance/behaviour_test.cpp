// What each method does to the load over many steps, on the synthetic router of the mathematics
// page: i.i.d. normal logits plus a fixed offset per expert, a fresh batch every step. The bounds
// are the largest values seen there over 20 seeds, plus a quarter.

#include <gtest/gtest.h>

#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"
#include "balance/load.h"
#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::load_of;
using testing::make_one;
using testing::RoutedBatch;
using testing::ScoreFunction;

constexpr int64_t kTokens = 1024;
constexpr int64_t kExperts = 16;
constexpr int64_t kTopK = 4;

class Behaviour : public ::testing::Test {
 protected:
  // Hundreds of small loops: handing them to threads costs more than they do.
  Behaviour() { set_num_threads(1); }
  ~Behaviour() override { set_num_threads(threads_before_); }

  Tensor logits(uint64_t step) {
    const RandomKey noise{.seed = 3, .purpose = RandomPurpose::test, .layer = 0, .step = step};
    const RandomKey offset{.seed = 3, .purpose = RandomPurpose::test, .layer = 1, .step = 0};
    std::vector<double> offsets;
    for (uint64_t e = 0; e < kExperts; ++e) offsets.push_back(1.5 * normal(offset, 0, e));
    std::vector<float> values;
    for (uint64_t i = 0; i < kTokens * kExperts; ++i) {
      values.push_back(static_cast<float>(normal(noise, 0, i) + offsets[i % kExperts]));
    }
    return Tensor::of<float>(pool_, {kTokens, kExperts}, values);
  }

  /// MaxVio of steps 1, 2, ... in training; `fresh` draws a new batch every step.
  std::vector<double> max_vio(Balancer& balancer, int64_t steps, ScoreFunction scores,
                              bool fresh = true) {
    std::vector<double> result;
    for (int64_t step = 0; step < steps; ++step) {
      Tape tape(pool_);
      const RoutedBatch batch(tape, logits(fresh ? static_cast<uint64_t>(step) : 0),
                              layout_of({kTokens}), {.top_k = kTopK, .scores = scores});
      const LayerLoad load = load_of(batch.route(balancer), batch.layout());
      result.push_back(load_statistics(load).max_vio);
      balancer.end_step(load, {.step = step});
    }
    return result;
  }
  Pool pool_;

 private:
  const int threads_before_ = num_threads();
};

TEST_F(Behaviour, WithoutBalancingOffsetsCollapseTheLoad) {
  const auto none = make_one("none", kExperts);
  EXPECT_GT(max_vio(*none, 1, ScoreFunction::softmax)[0], 1.5);
}

TEST_F(Behaviour, BipBalancesFromTheFirstStep) {
  const auto bip = make_one("bip", kExperts);
  const auto vio = max_vio(*bip, 50, ScoreFunction::softmax);
  EXPECT_LT(vio[0], 1.25 * 0.50);
  for (const double v : vio) EXPECT_LT(v, 1.25 * 0.50);
}

TEST_F(Behaviour, RecentringKeepsBipBalanced) {
  const auto plain = make_one("bip", kExperts);
  const auto recentred = make_one("bip", kExperts, {{"recentre", true}});
  const auto drifting = max_vio(*plain, 40, ScoreFunction::sigmoid);
  const auto steady = max_vio(*recentred, 40, ScoreFunction::sigmoid);
  EXPECT_LT(steady.back(), 1.25 * 0.10);
  EXPECT_LT(steady.back(), drifting.back());
}

TEST_F(Behaviour, MoreIterationsBalanceAFixedBatchBetter) {
  std::vector<double> vio;
  for (const int iterations : {1, 2, 4, 8}) {
    const auto bip = make_one("bip", kExperts, {{"iterations", iterations}});
    vio.push_back(max_vio(*bip, 1, ScoreFunction::softmax)[0]);
  }
  EXPECT_GT(vio[0], vio[1]);
  EXPECT_GT(vio[1], vio[2]);
  EXPECT_GT(vio[2], vio[3]);
  EXPECT_LT(vio[3], 0.25);
}

TEST_F(Behaviour, LossFreeBiasNeedsManyStepsAndThenBalances) {
  const auto bias = make_one("loss_free_bias", kExperts, {{"rate", 1e-2}});
  const auto vio = max_vio(*bias, 60, ScoreFunction::sigmoid);
  EXPECT_GT(vio[9], 1.0);
  EXPECT_LT(vio[59], 0.5);
}

TEST_F(Behaviour, QuantileBalancesFromTheSecondStep) {
  for (const std::string pooling : {"mean", "histogram"}) {
    const auto quantile = make_one("quantile", kExperts, {{"pooling", pooling}});
    const auto vio = max_vio(*quantile, 30, ScoreFunction::sigmoid);
    EXPECT_GT(vio[0], 1.5) << pooling;
    EXPECT_LT(vio[1], 1.0) << pooling;
    for (size_t step = 5; step < vio.size(); ++step) {
      EXPECT_LT(vio[step], 1.25 * 0.27) << pooling << " " << step;
    }
  }
}

TEST_F(Behaviour, ThresholdsBalanceAtOnceWithoutMomentumAndCloserWithIt) {
  const auto at_once = make_one("quantile_dynamic", kExperts, {{"momentum", 0.0}});
  const auto vio = max_vio(*at_once, 12, ScoreFunction::sigmoid);
  EXPECT_GT(vio[0], 1.0);
  for (size_t step = 1; step < vio.size(); ++step) EXPECT_LT(vio[step], 1.25 * 0.27) << step;
  // Ten steps' batches together: what is left is mostly the noise of the batch that is routed.
  const auto slowly = make_one("quantile_dynamic", kExperts);
  const auto late = max_vio(*slowly, 60, ScoreFunction::sigmoid);
  EXPECT_GT(late[4], 1.25 * 0.27);
  for (size_t step = 50; step < late.size(); ++step) EXPECT_LT(late[step], 1.25 * 0.23) << step;
}

TEST_F(Behaviour, MultiplicativeBiasBalancesToo) {
  const auto bias =
      make_one("loss_free_bias", kExperts, {{"rate", 2e-2}, {"form", "multiplicative"}});
  const auto vio = max_vio(*bias, 80, ScoreFunction::sigmoid);
  EXPECT_GT(vio[4], 1.0);
  EXPECT_LT(vio[79], 0.5);
}

TEST_F(Behaviour, MoreRoundsOfQuantileBalanceAFixedBatchBetter) {
  std::vector<double> vio;
  for (const int iterations : {1, 2, 4}) {
    const auto quantile = make_one("quantile", kExperts, {{"iterations", iterations}});
    vio.push_back(max_vio(*quantile, 2, ScoreFunction::softmax, /*fresh=*/false)[1]);
  }
  EXPECT_GT(vio[0], vio[1]);
  EXPECT_GT(vio[1], vio[2]);
  EXPECT_LT(vio[2], 0.15);
}

TEST_F(Behaviour, BipIsAheadOfLossFreeBiasInTheFirstSteps) {
  const auto bip = make_one("bip", kExperts);
  const auto bias = make_one("loss_free_bias", kExperts);
  const auto with_bip = max_vio(*bip, 20, ScoreFunction::sigmoid);
  const auto with_bias = max_vio(*bias, 20, ScoreFunction::sigmoid);
  for (size_t step = 0; step < 20; ++step) EXPECT_LT(2.0 * with_bip[step], with_bias[step]);
}

}  // namespace
}  // namespace sluice
