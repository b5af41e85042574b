#include "autograd/kernels/linear_consistency.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/kernels/reference/linear_consistency.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

// A product of up to 64 terms, then an exponential of it.
constexpr double kCoefficient = 200.0;

template <class T>
class Consistency : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Consistency, FloatTypes);

std::vector<int32_t> some_targets(int64_t N) {
  std::vector<int32_t> targets;
  for (int64_t n = 0; n < N; ++n) targets.push_back(n % 5 == 3 ? -100 : 1);
  return targets;
}

/// The loss, and the gradients when there is room for them.
template <class T, class Kernel>
double run(Kernel kernel, const Array<T>& hidden, const Array<T>& weight,
           const std::vector<int32_t>& targets, int64_t D, Array<T>* grad_hidden = nullptr,
           Array<T>* grad_weight = nullptr) {
  const int64_t V = weight.size() / D;
  Array<T> logits(2 * linear_consistency_chunk(V) * V);
  LinearConsistency<T> args{static_cast<int64_t>(targets.size()),
                            D,
                            V,
                            hidden.data(),
                            weight.data(),
                            targets.data(),
                            T(3),
                            logits.data()};
  if (grad_hidden != nullptr) args.grad_hidden = grad_hidden->data();
  if (grad_weight != nullptr) args.grad_weight = grad_weight->data();
  return kernel(args);
}

constexpr auto kKernel = [](const auto& args) { return linear_consistency(args); };
constexpr auto kReference = [](const auto& args) { return reference::linear_consistency(args); };

TYPED_TEST(Consistency, EqualsTheReference) {
  using T = TypeParam;
  struct Case {
    int64_t N, D, V;
  };
  for (const auto [N, D, V] :
       {Case{0, 4, 3}, Case{1, 1, 2}, Case{7, 5, 33}, Case{300, 16, 40}, Case{5, 64, 257}}) {
    const auto hidden = Array<T>::uniform(2 * N * D, 1, -2.0, 2.0);
    const auto weight = Array<T>::uniform(V * D, 2);
    const auto targets = some_targets(N);
    Array<T> grad_hidden(2 * N * D, T(9)), grad_weight(V * D, T(9));
    Array<double> grad_hidden64(2 * N * D), grad_weight64(V * D);
    const double loss = run(kKernel, hidden, weight, targets, D, &grad_hidden, &grad_weight);
    const double expected = run(kReference, hidden.in_double(), weight.in_double(), targets, D,
                                &grad_hidden64, &grad_weight64);
    EXPECT_NEAR(
        loss, expected,
        kCoefficient * std::numeric_limits<T>::epsilon() * std::max(1.0, std::abs(expected)));
    expect_close(grad_hidden, grad_hidden64, kCoefficient);
    expect_close(grad_weight, grad_weight64, kCoefficient);
    // Without gradients the loss is the same.
    EXPECT_EQ(run(kKernel, hidden, weight, targets, D), loss);
  }
}

TEST(ConsistencyNumbers, AreThoseOfTheMethodNotes) {
  // Each pass picks one column of the weights, which holds the logarithms of its prediction.
  const std::vector<double> hidden = {1.0, 0.0, 0.0, 1.0};
  std::vector<double> weight = {0.7, 0.5, 0.2, 0.3, 0.1, 0.2};
  for (double& w : weight) w = std::log(w);
  const std::vector<int32_t> target = {0};
  std::vector<double> logits(static_cast<size_t>(2 * linear_consistency_chunk(3)) * 3);
  const double loss = linear_consistency<double>(
      {1, 2, 3, hidden.data(), weight.data(), target.data(), 1.0, logits.data()});
  EXPECT_NEAR(loss, 0.088578, 5e-7);
}

TYPED_TEST(Consistency, OfEqualPassesIsExactlyZeroAndWithoutAGradient) {
  using T = TypeParam;
  constexpr int64_t N = 301, D = 12, V = 50;
  auto hidden = Array<T>::uniform(2 * N * D, 1, -2.0, 2.0);
  std::copy_n(hidden.data(), N * D, hidden.data() + N * D);
  const auto weight = Array<T>::uniform(V * D, 2);
  Array<T> grad_hidden(2 * N * D, T(9)), grad_weight(V * D, T(9));
  EXPECT_EQ(run(kKernel, hidden, weight, some_targets(N), D, &grad_hidden, &grad_weight), 0.0);
  for (int64_t i = 0; i < 2 * N * D; ++i) EXPECT_EQ(grad_hidden[i], T{0}) << i;
  for (int64_t i = 0; i < V * D; ++i) EXPECT_EQ(grad_weight[i], T{0}) << i;
}

TYPED_TEST(Consistency, IsTheSameWithThePassesSwapped) {
  using T = TypeParam;
  constexpr int64_t N = 20, D = 12, V = 50;
  const auto hidden = Array<T>::uniform(2 * N * D, 1, -2.0, 2.0);
  auto swapped = hidden;
  std::copy_n(hidden.data(), N * D, swapped.data() + N * D);
  std::copy_n(hidden.data() + N * D, N * D, swapped.data());
  const auto weight = Array<T>::uniform(V * D, 2);
  const double loss = run(kKernel, hidden, weight, some_targets(N), D);
  EXPECT_NEAR(run(kKernel, swapped, weight, some_targets(N), D), loss,
              kCoefficient * std::numeric_limits<T>::epsilon() * loss);
  EXPECT_GT(loss, 0.01);
}

}  // namespace
}  // namespace sluice::kernels
