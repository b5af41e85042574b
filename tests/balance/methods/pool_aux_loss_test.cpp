#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/core/gradcheck.h"
#include "layers/routing_session.h"
#include "tests/balance/routed_batch.h"
#include "tests/support/thread_ranks.h"

namespace sluice {
namespace {

using testing::f1_logits;
using ::testing::HasSubstr;
using testing::layout_of;
using testing::numbers_of;
using testing::RoutedBatch;
using testing::ScoreFunction;

/// Probabilities of one token each; with k = 2 they choose experts {0, 1} and {2, 3}.
const std::vector<double> kLow = {0.45, 0.35, 0.1, 0.1};
const std::vector<double> kHigh = {0.1, 0.1, 0.35, 0.45};

std::vector<std::unique_ptr<Balancer>> layers_of(const std::vector<Tagged>& methods,
                                                 int64_t layers) {
  std::vector<std::unique_ptr<Balancer>> balancers;
  for (int64_t layer = 0; layer < layers; ++layer) {
    balancers.push_back(
        make_balancer(methods, {.layer = layer, .experts = 4, .top_k = 2, .layers = layers}));
  }
  return balancers;
}

class PoolAuxLoss : public ::testing::Test {
 protected:
  explicit PoolAuxLoss(int64_t layers = 2) { start(layers); }

  void start(int64_t layers, const nlohmann::json& options = {{"coefficient", 1.0}}) {
    session_ = std::make_unique<RoutingSession>(
        layers_of({testing::method("pool_aux_loss", options)}, layers));
  }

  Tensor rows(const std::vector<double>& values) {
    return Tensor::of<double>(pool_, {static_cast<int64_t>(values.size()) / 4, 4}, values);
  }

  /// The loss of one layer in the open micro-batch; nan for none.
  double loss_of(int64_t layer, const std::vector<double>& p, bool replay = false) {
    Tape tape(pool_);
    const RoutedBatch batch(tape, rows(p), layout_of({static_cast<int64_t>(p.size()) / 4}),
                            {.top_k = 2, .scores = ScoreFunction::identity});
    const Selection& selection = session_->select(
        layer, replay, batch.layout().tokens(),
        [&](Balancer& balancer, Selection& made) { made = batch.route(balancer); });
    const Tensor loss = batch.loss(tape, session_->balancer(layer), selection);
    return loss.defined() ? loss.item() : std::nan("");
  }
  std::vector<double> fractions() {
    SaveVisitor save;
    session_->visit_state(save);
    return numbers_of(save.take(), "0/pool_aux_loss/fractions");
  }

  Pool pool_;
  SingleRank communicator_;
  std::unique_ptr<RoutingSession> session_;
};

TEST_F(PoolAuxLoss, OfTheFirstMicroBatchIsNone) {
  session_->begin_step(1);
  EXPECT_TRUE(std::isnan(loss_of(0, kLow)));
  EXPECT_TRUE(std::isnan(loss_of(1, kLow)));
}

TEST_F(PoolAuxLoss, SumsToThatOfThePoolOverLayers) {
  session_->begin_step(2);
  session_->begin_micro_batch(0);
  (void)loss_of(0, kLow);
  (void)loss_of(1, f1_logits());  // loads (3, 2, 2, 1)
  session_->begin_micro_batch(1);
  const double sum = loss_of(0, kHigh) + loss_of(1, kLow);
  // f = mean of (.5, .5, 0, 0) and (3, 2, 2, 1) / 8; P = mean of both rows.
  const std::vector<double> f = {0.4375, 0.375, 0.125, 0.0625};
  double expected = 0.0;
  for (size_t e = 0; e < 4; ++e) expected += 4.0 * f[e] * (kLow[e] + kHigh[e]) / 2.0;
  EXPECT_NEAR(sum, expected, 1e-15);
}

TEST_F(PoolAuxLoss, OfOneLayerIsTheAuxLossOneMicroBatchBehind) {
  start(1);
  session_->begin_step(2);
  session_->begin_micro_batch(0);
  (void)loss_of(0, kLow);
  session_->begin_micro_batch(1);
  EXPECT_NEAR(loss_of(0, kLow), 1.6, 1e-15);
  session_->finish_loads(communicator_);
  session_->end_step({});
  session_->begin_step(1);
  // The last micro-batch of the step before is the one before.
  EXPECT_NEAR(loss_of(0, kHigh), 0.4, 1e-15);
  EXPECT_EQ(fractions(), (std::vector<double>{0.5, 0.5, 0.0, 0.0}));
}

TEST_F(PoolAuxLoss, IsTheSameWhenRecomputed) {
  session_->begin_step(2);
  session_->begin_micro_batch(0);
  (void)loss_of(0, kLow);
  (void)loss_of(1, kHigh);
  session_->begin_micro_batch(1);
  const double first = loss_of(0, kLow);
  const double second = loss_of(1, kLow);
  EXPECT_EQ(loss_of(1, kLow, /*replay=*/true), second);
  EXPECT_EQ(loss_of(0, kLow, /*replay=*/true), first);
  session_->finish_loads(communicator_);
  // Replaying after the step teaches nothing.
  session_->begin_micro_batch(0);
  (void)loss_of(0, kHigh, /*replay=*/true);
  session_->begin_micro_batch(1);
  EXPECT_EQ(fractions(), (std::vector<double>{0.5, 0.5, 0.0, 0.0}));
}

TEST_F(PoolAuxLoss, LearnsNothingFromACountingPassNorFromEvaluation) {
  session_ = std::make_unique<RoutingSession>(
      layers_of({testing::method("pool_aux_loss"), testing::method("global_aux_loss")}, 1));
  const auto route = [&](const std::vector<double>& p) {
    Tape tape(pool_);
    const RoutedBatch batch(tape, rows(p), layout_of({1}), {.top_k = 2});
    (void)session_->select(0, /*replay=*/false, 1, [&](Balancer& balancer, Selection& made) {
      made = batch.route(balancer);
    });
  };
  session_->begin_step(2);
  session_->begin_counting();
  for (int64_t i = 0; i < 2; ++i) {
    session_->begin_micro_batch(i);
    route(i == 0 ? kLow : kHigh);
  }
  session_->end_counting(communicator_);
  EXPECT_EQ(fractions(), std::vector<double>(4, 0.0));
  session_->begin_micro_batch(0);
  EXPECT_EQ(fractions(), std::vector<double>(4, 0.0));
  route(kLow);
  session_->begin_micro_batch(1);
  EXPECT_EQ(fractions(), (std::vector<double>{0.5, 0.5, 0.0, 0.0}));
  route(kHigh);
  session_->finish_loads(communicator_);
  EXPECT_EQ(fractions(), (std::vector<double>{0.0, 0.0, 0.5, 0.5}));
  session_->begin_evaluation();
  route(kLow);
  session_->end_evaluation();
  EXPECT_EQ(fractions(), (std::vector<double>{0.0, 0.0, 0.5, 0.5}));
}

TEST_F(PoolAuxLoss, KeepsTheLoadWhenAMicroBatchHasNone) {
  const auto balancer = testing::make_one("pool_aux_loss", 4);
  Selection some{.tokens = 1, .experts = 4, .top_k = 2, .expert = {0, 1}, .load = {1, 1, 0, 0}};
  Selection none{.tokens = 1, .experts = 4, .top_k = 2, .expert = {0, 1}, .load = {0, 0, 0, 0}};
  const auto fractions = [&] {
    return numbers_of(testing::state_of(*balancer), "pool_aux_loss/fractions");
  };
  // A layer without an assignment does not dilute the mean.
  const std::vector<const Selection*> half = {&some, &none};
  balancer->end_micro_batch(half);
  EXPECT_EQ(fractions(), (std::vector<double>{0.5, 0.5, 0.0, 0.0}));
  const std::vector<const Selection*> empty = {&none, &none};
  balancer->end_micro_batch(empty);
  EXPECT_EQ(fractions(), (std::vector<double>{0.5, 0.5, 0.0, 0.0}));
}

TEST_F(PoolAuxLoss, RefusesLayersOfDifferentNumbersOfExperts) {
  const auto balancer = testing::make_one("pool_aux_loss", 4);
  const Selection other{.tokens = 1, .experts = 2, .top_k = 1, .expert = {0}, .load = {1, 0}};
  const std::vector<const Selection*> layers = {&other};
  try {
    balancer->end_micro_batch(layers);
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("found layers of 4 and 2 experts"));
  }
}

TEST_F(PoolAuxLoss, HasTheGradientOfItsValueInScoresOrProbabilities) {
  const Selection before{.tokens = 4, .experts = 4, .top_k = 2, .expert = {}, .load = {3, 2, 2, 1}};
  const std::vector<const Selection*> layers = {&before};
  for (const std::string scores : {"scores", "probabilities"}) {
    const auto balancer =
        testing::make_one("pool_aux_loss", 4, {{"coefficient", 0.7}, {"scores", scores}});
    balancer->end_micro_batch(layers);
    double value = 0.0;
    const OpSample sample = {
        .label = "pool_aux_loss",
        .inputs = {rows(f1_logits())},
        .differentiable = {true},
        .apply = [&](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
          const RoutedBatch batch(tape, in[0], layout_of({4}),
                                  {.top_k = 2, .scores = ScoreFunction::sigmoid});
          const Tensor loss = batch.loss(tape, *balancer, batch.route(*balancer));
          value = loss.item();
          return {loss};
        }};
    const GradcheckReport report = gradcheck(pool_, sample);
    EXPECT_TRUE(report.passed) << report.message;
    // The sigmoid scores of F1's tokens sum to more than 1.
    if (scores == "scores") {
      EXPECT_GT(value, 0.7 * 1.5);
    } else {
      EXPECT_LT(value, 0.7 * 1.2);
    }
  }
}

TEST(PoolAuxLossOnRanks, GoesOnFromTheSameLoadEverywhere) {
  testing::ThreadRanks::run(2, [](Communicator& communicator) {
    const auto balancer = testing::make_one("pool_aux_loss", 4);
    Selection own{.tokens = 1, .experts = 4, .top_k = 2, .expert = {}, .load = {1, 1, 0, 0}};
    if (communicator.rank() == 1) own.load = {0, 0, 1, 1};
    const std::vector<const Selection*> layers = {&own};
    balancer->end_micro_batch(layers);
    balancer->reduce(communicator);
    EXPECT_EQ(numbers_of(testing::state_of(*balancer), "pool_aux_loss/fractions"),
              std::vector<double>(4, 0.25));
  });
}

}  // namespace
}  // namespace sluice
