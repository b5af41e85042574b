#include <algorithm>
#include <array>
#include <cmath>

#include "tests/balance/loss_gradient.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::loss_of;
using testing::make_one;

class GateAuxLoss : public ::testing::Test {
 protected:
  Tensor f1() { return Tensor::of<double>(pool_, {4, 4}, f1_logits()); }
  Pool pool_;
};

/// E sum_i u_i p_i of four tokens, top 2, in the words of the equation.
double expected_of(const std::vector<double>& logits) {
  std::array<double, 4> u{};
  std::array<double, 4> p{};
  for (size_t t = 0; t < 4; ++t) {
    std::array<double, 4> own{};
    double sum = 0.0;
    for (size_t e = 0; e < 4; ++e) sum += own[e] = std::exp(logits[t * 4 + e]);
    std::array<size_t, 4> order{0, 1, 2, 3};
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return own[a] > own[b]; });
    for (size_t e = 0; e < 4; ++e) p[e] += own[e] / sum / 4.0;
    for (size_t j = 0; j < 2; ++j) {
      u[order[j]] += own[order[j]] / (own[order[0]] + own[order[1]]) / 4.0;
    }
  }
  double loss = 0.0;
  for (size_t e = 0; e < 4; ++e) loss += 4.0 * u[e] * p[e];
  return loss;
}

TEST_F(GateAuxLoss, IsTheEquation) {
  const auto balancer = make_one("gate_aux_loss", 4, {{"coefficient", 0.5}});
  EXPECT_NEAR(loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2}).value,
              0.5 * expected_of(f1_logits()), 1e-12);
  // Alike for all experts it is its weight.
  EXPECT_NEAR(loss_of(pool_, *balancer, Tensor::zeros(pool_, {4, 4}, DType::f64), layout_of({4}),
                      {.top_k = 4})
                  .value,
              0.5, 1e-12);
}

TEST_F(GateAuxLoss, WeighsByTheShareOfTheGlobalBatch) {
  const auto balancer = make_one("gate_aux_loss", 4, {{"coefficient", 1.0}});
  EXPECT_NEAR(
      loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2, .valid_tokens = 16}).value,
      expected_of(f1_logits()) / 4.0, 1e-12);
}

TEST_F(GateAuxLoss, HasAGradientThroughGatesAndProbabilities) {
  const auto balancer = make_one("gate_aux_loss", 4, {{"coefficient", 1.0}});
  testing::expect_loss_gradients(pool_, *balancer);
  testing::expect_loss_gradient(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2});
}

}  // namespace
}  // namespace sluice
