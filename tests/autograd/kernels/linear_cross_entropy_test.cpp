#include "autograd/kernels/linear_cross_entropy.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/linear_cross_entropy.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

// A product of up to 64 terms, then an exponential of it.
constexpr double kCoefficient = 200.0;

template <class T>
class CrossEntropy : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CrossEntropy, FloatTypes);

std::vector<int32_t> some_targets(int64_t N, int64_t V) {
  std::vector<int32_t> targets;
  for (int64_t n = 0; n < N; ++n)
    targets.push_back(n % 5 == 3 ? -100 : static_cast<int32_t>(n * 7 % V));
  return targets;
}

TYPED_TEST(CrossEntropy, EqualsTheReference) {
  using T = TypeParam;
  struct Case {
    int64_t N, D, V;
  };
  for (const auto [N, D, V] :
       {Case{0, 4, 3}, Case{1, 1, 2}, Case{7, 5, 33}, Case{300, 16, 40}, Case{5, 64, 257}}) {
    const auto hidden = Array<T>::uniform(N * D, 1, -2.0, 2.0);
    const auto weight = Array<T>::uniform(V * D, 2);
    const auto targets = some_targets(N, V);
    const auto run = [&]<class U>(const Array<U>& h, const Array<U>& w, auto kernel,
                                  Array<U>& token_loss, Array<U>& grad_hidden,
                                  Array<U>& grad_weight) {
      Array<U> logits(linear_cross_entropy_chunk(V) * V);
      LinearCrossEntropy<U> args{N,
                                 D,
                                 V,
                                 h.data(),
                                 w.data(),
                                 targets.data(),
                                 U(3),
                                 U(0.01),
                                 logits.data(),
                                 token_loss.data()};
      args.grad_hidden = grad_hidden.data();
      args.grad_weight = grad_weight.data();
      return kernel(args);
    };
    Array<T> token_loss(N), grad_hidden(N * D, T(9)), grad_weight(V * D, T(9));
    Array<double> token_loss64(N), grad_hidden64(N * D), grad_weight64(V * D);
    const double loss = run(
        hidden, weight, [](const auto& args) { return linear_cross_entropy(args); }, token_loss,
        grad_hidden, grad_weight);
    const double expected = run(
        hidden.in_double(), weight.in_double(),
        [](const auto& args) { return reference::linear_cross_entropy(args); }, token_loss64,
        grad_hidden64, grad_weight64);
    EXPECT_NEAR(
        loss, expected,
        kCoefficient * std::numeric_limits<T>::epsilon() * std::max(1.0, std::abs(expected)));
    expect_close(token_loss, token_loss64, kCoefficient);
    expect_close(grad_hidden, grad_hidden64, kCoefficient);
    expect_close(grad_weight, grad_weight64, kCoefficient);
  }
}

TEST(CrossEntropyNumbers, AreThoseOfTheMethodNotes) {
  // z = [2, 1, .1, -1], target 1: hidden is one, the weights are the logits.
  const std::vector<double> hidden = {1.0};
  const std::vector<double> weight = {2.0, 1.0, 0.1, -1.0};
  const std::vector<int32_t> target = {1};
  for (const double z_loss : {0.0, 1e-3}) {
    std::vector<double> logits(static_cast<size_t>(linear_cross_entropy_chunk(4)) * 4);
    std::vector<double> token_loss(1), grad_hidden(1), grad_weight(4);
    const double loss = linear_cross_entropy<double>(
        {1, 1, 4, hidden.data(), weight.data(), target.data(), 1.0, z_loss, logits.data(),
         token_loss.data(), grad_hidden.data(), grad_weight.data()});
    EXPECT_NEAR(token_loss[0], 1.44931300, 1e-8);
    EXPECT_NEAR(loss, z_loss == 0.0 ? 1.44931300 : 1.45531214, 1e-8);
    const std::vector<double> expected =
        z_loss == 0.0 ? std::vector<double>{.638066, -.765269, .095435, .031767}
                      : std::vector<double>{.641192, -.764119, .095902, .031923};
    for (size_t v = 0; v < 4; ++v) EXPECT_NEAR(grad_weight[v], expected[v], 6e-7);
  }
}

TYPED_TEST(CrossEntropy, OfATokenDoesNotDependOnItsNeighbours) {
  using T = TypeParam;
  constexpr int64_t N = 301, D = 12, V = 50;
  const auto hidden = Array<T>::uniform(N * D, 1);
  const auto weight = Array<T>::uniform(V * D, 2);
  const auto targets = some_targets(N, V);
  Array<T> logits(linear_cross_entropy_chunk(V) * V), together(N), alone(1);
  linear_cross_entropy<T>({N, D, V, hidden.data(), weight.data(), targets.data(), 1, 0,
                           logits.data(), together.data()});
  for (const int64_t n : {0, 1, 100, 255, 256, 300}) {
    linear_cross_entropy<T>({1, D, V, hidden.data() + n * D, weight.data(), targets.data() + n, 1,
                             0, logits.data(), alone.data()});
    EXPECT_EQ(alone[0], together[n]) << n;
  }
}

}  // namespace
}  // namespace sluice::kernels
