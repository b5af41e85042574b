#include "layers/routers/query_norm.h"

#include <gmock/gmock.h>

#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

class QueryNorm : public testing::RouterFixture {
 protected:
  QueryNorm() { router_ = std::make_unique<QueryNormRouter>(); }

  /// 1 and 0 of the choice among f1() as a function of probabilities p.
  [[nodiscard]] Tensor gates(Tape& tape, const Tensor& p) {
    return straight_through(tape, p, route(f1(), 2).selection);
  }
};

TEST_F(QueryNorm, IsTheLengthOfTheQueriesOfTheLastHeads) {
  Tape tape(pool_);
  const NoGrad no_grad(tape);
  // One token, three heads of width 2, the first of them shared.
  const Tensor q = Tensor::of<double>(pool_, {1, 3, 2}, {9.0, 9.0, 3.0, -4.0, 0.0, 2.0});
  EXPECT_THAT(testing::numbers(query_norms(tape, q, 2)),
              ElementsAre(DoubleNear(5.0, 1e-12), DoubleNear(2.0, 1e-12)));
}

TEST_F(QueryNorm, ScoresByNormsOverTheirUnbiasedDeviation) {
  // The deviation of 2, 5, 4, 1 is 1.825742: softmax(1.095445, 2.738613, 2.190890, 0.547723).
  const testing::Routed routed = route(rows({2.0, 5.0, 4.0, 1.0}, 4), 2);
  const auto p = testing::numbers(routed.scores.probabilities);
  const std::vector<double> expected = {0.102666, 0.530941, 0.307025, 0.059368};
  for (size_t h = 0; h < 4; ++h) EXPECT_NEAR(p[h], expected[h], testing::kPrinted);
  EXPECT_THAT(routed.selection.expert, ElementsAre(1, 2));
  EXPECT_THAT(routed.weights, ElementsAre(p[1], p[2]));
}

TEST_F(QueryNorm, IsBlindToTheScaleOfTheQueries) {
  const auto one = testing::numbers(route(rows({2.0, 5.0, 4.0, 1.0}, 4), 2).scores.probabilities);
  const auto ten = testing::numbers(route(rows({20., 50., 40., 10.}, 4), 2).scores.probabilities);
  for (size_t h = 0; h < 4; ++h) EXPECT_NEAR(one[h], ten[h], 1e-12);
}

TEST_F(QueryNorm, GradientAgreesWithDifferences) { expect_gradient(random_rows(4, 5), 5); }

TEST_F(QueryNorm, OpensGatesWholeAndHandsTheirGradientToEveryProbability) {
  Tape tape(pool_);
  const Tensor p = tape.input(random_rows(4, 4));
  const Tensor outputs[] = {gates(tape, p)};
  // Of f1() the largest two of each row.
  EXPECT_THAT(testing::numbers(outputs[0]),
              ElementsAre(1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1));
  const Tensor grads[] = {random_rows(4, 4, 2)};
  tape.backward(outputs, grads);
  EXPECT_EQ(testing::numbers(tape.gradient(p)), testing::numbers(grads[0]));
}

}  // namespace
}  // namespace sluice
