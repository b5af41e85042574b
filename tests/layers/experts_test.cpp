// A dropless expert layer under any load is what each token computes alone, forward and backward.

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/core/op_info.h"
#include "autograd/ops/dispatch_combine.h"
#include "layers/experts/swiglu.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

constexpr int64_t kTokens = 700;  // more than two row tiles of one expert
constexpr int64_t kExperts = 5;
constexpr int64_t kWidth = 12;
constexpr int64_t kHidden = 20;

/// Token by token in plain loops: y = w W_down (silu(g) u), g = W_gate x, u = W_up x, and the
/// gradients of <grad_y, y>.
struct PlainExperts {
  const double* gate;
  const double* up;
  const double* down;
  std::vector<double> grad_gate = std::vector<double>(kExperts * kHidden * kWidth, 0.0);
  std::vector<double> grad_up = grad_gate;
  std::vector<double> grad_down = grad_gate;

  void token(int64_t expert, const double* x, double weight, const double* grad_y, double* y,
             double* grad_x, double* grad_weight) {
    const int64_t in = expert * kHidden * kWidth;  // of [F, D]
    std::vector<double> g(kHidden, 0.0), u(kHidden, 0.0), h(kHidden), grad_h(kHidden, 0.0);
    for (int64_t f = 0; f < kHidden; ++f) {
      for (int64_t d = 0; d < kWidth; ++d) {
        g[f] += gate[in + f * kWidth + d] * x[d];
        u[f] += up[in + f * kWidth + d] * x[d];
      }
      h[f] = g[f] / (1.0 + std::exp(-g[f])) * u[f];
    }
    for (int64_t d = 0; d < kWidth; ++d) {
      double out = 0.0;
      for (int64_t f = 0; f < kHidden; ++f) {
        const int64_t at = in + d * kHidden + f;  // of [D, F]
        out += down[at] * h[f];
        grad_h[f] += weight * grad_y[d] * down[at];
        grad_down[at] += weight * grad_y[d] * h[f];
      }
      y[d] += weight * out;
      *grad_weight += grad_y[d] * out;
    }
    for (int64_t f = 0; f < kHidden; ++f) {
      const double sigmoid = 1.0 / (1.0 + std::exp(-g[f]));
      const double grad_g = grad_h[f] * u[f] * sigmoid * (1.0 + g[f] * (1.0 - sigmoid));
      const double grad_u = grad_h[f] * g[f] * sigmoid;
      for (int64_t d = 0; d < kWidth; ++d) {
        const int64_t at = in + f * kWidth + d;
        grad_gate[at] += grad_g * x[d];
        grad_up[at] += grad_u * x[d];
        grad_x[d] += grad_g * gate[at] + grad_u * up[at];
      }
    }
  }
};

using Routes = std::vector<int32_t>;  // [N, 2]

/// Both choices of every token.
Routes routes(const std::function<int64_t(int64_t)>& first) {
  Routes result;
  for (int64_t t = 0; t < kTokens; ++t) {
    const int64_t expert = first(t);
    result.push_back(static_cast<int32_t>(expert));
    result.push_back(static_cast<int32_t>((expert + 1) % kExperts));
  }
  return result;
}

class DroplessExperts : public ::testing::TestWithParam<std::pair<const char*, Routes>> {};

void expect_near(std::span<const double> found, std::span<const double> expected,
                 const char* what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  double greatest = 0.0;
  for (const double x : expected) greatest = std::max(greatest, std::abs(x));
  // Sums of up to 700 products in another order.
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], 1e-13 * std::max(greatest, 1.0)) << what << " " << i;
  }
}

TEST_P(DroplessExperts, AreThePlainReferenceForwardAndBackward) {
  const Routes& chosen = GetParam().second;
  Pool pool;
  InitConfig init;
  init.std = 0.3;
  SwigluExperts experts(Builder(pool, DType::f64, 1, init, 1), {kExperts, kWidth, kHidden});
  for (Parameter* parameter : experts.parameters()) parameter->zero_grad(pool);
  SampleFactory make(pool, DType::f64, 4);
  const Tensor values = make.uniform({kTokens, kWidth}, -1.0, 1.0);
  const Tensor mix = make.uniform({kTokens, 2}, 0.1, 1.0);
  const Tensor grad_y = make.uniform({kTokens, kWidth}, -1.0, 1.0);

  Tape tape(pool);
  const SequenceLayout layout = SequenceLayout::single(pool, kTokens, 0);
  const DispatchPlan plan = make_dispatch_plan(pool, chosen, kTokens, 2, kExperts);
  const Tensor x = tape.input(values);
  const Tensor weights = tape.input(mix);
  const Tensor y = experts.forward({tape, layout}, x, weights, plan);
  tape.backward(std::span(&y, 1), std::span(&grad_y, 1));

  const auto parameters = experts.parameters();
  PlainExperts plain{parameters[0]->value.data<double>(), parameters[1]->value.data<double>(),
                     parameters[2]->value.data<double>()};
  std::vector<double> plain_y(kTokens * kWidth, 0.0);
  std::vector<double> plain_x(kTokens * kWidth, 0.0);
  std::vector<double> plain_weights(kTokens * 2, 0.0);
  for (int64_t slot = 0; slot < kTokens * 2; ++slot) {
    const int32_t expert = chosen[static_cast<size_t>(slot)];
    if (expert == kNoExpert) continue;
    const int64_t row = slot / 2 * kWidth;
    plain.token(expert, values.data<double>() + row, mix.data<double>()[slot],
                grad_y.data<double>() + row, plain_y.data() + row, plain_x.data() + row,
                plain_weights.data() + slot);
  }
  expect_near(y.span<double>(), plain_y, "y");
  expect_near(tape.gradient(x).span<double>(), plain_x, "gradient of x");
  expect_near(tape.gradient(weights).span<double>(), plain_weights, "gradient of the weights");
  for (Parameter* parameter : parameters) parameter->materialise_grad();
  expect_near(parameters[0]->grad.span<double>(), plain.grad_gate, "gradient of w_gate");
  expect_near(parameters[1]->grad.span<double>(), plain.grad_up, "gradient of w_up");
  expect_near(parameters[2]->grad.span<double>(), plain.grad_down, "gradient of w_down");
}

Routes to_one_expert() {
  Routes result = routes([](int64_t) { return 3; });
  for (size_t slot = 1; slot < result.size(); slot += 2) result[slot] = kNoExpert;
  return result;
}

INSTANTIATE_TEST_SUITE_P(
    Loads, DroplessExperts,
    ::testing::Values(std::pair("balanced", routes([](int64_t token) { return token % kExperts; })),
                      // Expert e gets about 1 / (e + 1) of what the first gets.
                      std::pair("zipf", routes([](int64_t token) {
                                  const double u = static_cast<double>(token * 331 % kTokens) /
                                                   static_cast<double>(kTokens);
                                  return std::min<int64_t>(
                                      kExperts - 1,
                                      static_cast<int64_t>(std::pow(kExperts + 1.0, u)) - 1);
                                })),
                      std::pair("one_expert", to_one_expert()),
                      std::pair("two_experts", routes([](int64_t) { return 1; }))),
    [](const auto& test) { return test.param.first; });

}  // namespace
}  // namespace sluice
