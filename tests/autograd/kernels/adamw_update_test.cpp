#include "autograd/kernels/adamw_update.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/adamw_update.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_same_bits_on_any_threads;
using testing::kLengths;

/// A parameter with its moments.
template <class T>
struct Parameter {
  explicit Parameter(int64_t n)
      : value(Array<T>::uniform(n, 1)),
        m(Array<T>::uniform(n, 2)),
        v(Array<T>::uniform(n, 3, 0.0, 1.0)) {}
  [[nodiscard]] AdamWState<T> state() { return {value.data(), m.data(), v.data()}; }
  Array<T> value;
  Array<T> m;
  Array<T> v;
};

/// One number from moments of zero.
template <class T>
struct Scalar {
  T value = 1;
  T m = 0;
  T v = 0;
  void step(const AdamWStep& step, T grad) { adamw_update<T>(1, step, &grad, {&value, &m, &v}); }
};

template <class T>
class AdamWKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(AdamWKernel, FloatTypes);

TYPED_TEST(AdamWKernel, EqualsTheReferenceBitForBit) {
  using T = TypeParam;
  for (const int64_t n : kLengths) {
    for (const int64_t t : {1, 2, 1000}) {
      const auto grad = Array<T>::uniform(n, 4);
      const AdamWStep step{.t = t,
                           .learning_rate = 3e-3,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .epsilon = 1e-8,
                           .weight_decay = 0.1,
                           .gradient_scale = 0.7};
      Parameter<T> fused(n);
      Parameter<T> plain(n);
      adamw_update(n, step, grad.data(), fused.state());
      reference::adamw_update(n, step, grad.data(), plain.state());
      EXPECT_TRUE(fused.value.same_bits(plain.value)) << n;
      EXPECT_TRUE(fused.m.same_bits(plain.m)) << n;
      EXPECT_TRUE(fused.v.same_bits(plain.v)) << n;
      EXPECT_TRUE(fused.value.guards_intact());
    }
  }
}

TYPED_TEST(AdamWKernel, ManyParametersAtOnceEqualOneByOne) {
  using T = TypeParam;
  AdamWStep step{.t = 7, .learning_rate = 3e-3, .weight_decay = 0.1, .gradient_scale = 0.7};
  std::vector<Parameter<T>> together;
  std::vector<Parameter<T>> alone;
  std::vector<Array<T>> grads;
  for (const int64_t n : kLengths) {
    together.emplace_back(n);
    alone.emplace_back(n);
    grads.push_back(Array<T>::uniform(n, 4));
  }
  std::vector<AdamWPart<T>> parts;
  for (size_t i = 0; i < grads.size(); ++i) {
    parts.push_back({.n = grads[i].size(),
                     .grad = grads[i].data(),
                     .state = together[i].state(),
                     .decays = i % 3 != 0});
  }
  adamw_update<T>(step, parts);
  for (size_t i = 0; i < grads.size(); ++i) {
    step.weight_decay = parts[i].decays ? 0.1 : 0.0;
    adamw_update<T>(grads[i].size(), step, grads[i].data(), alone[i].state());
    EXPECT_TRUE(together[i].value.same_bits(alone[i].value)) << i;
    EXPECT_TRUE(together[i].m.same_bits(alone[i].m)) << i;
    EXPECT_TRUE(together[i].v.same_bits(alone[i].v)) << i;
    EXPECT_TRUE(together[i].value.guards_intact());
  }
}

TYPED_TEST(AdamWKernel, AGradientThatIsNotThereIsZero) {
  using T = TypeParam;
  const AdamWStep step{.t = 7, .weight_decay = 0.1, .gradient_scale = 0.7};
  for (const int64_t n : kLengths) {
    Parameter<T> without(n);
    Parameter<T> zeros(n);
    const Array<T> grad(n);
    adamw_update<T>(n, step, nullptr, without.state());
    adamw_update<T>(n, step, grad.data(), zeros.state());
    EXPECT_TRUE(without.value.same_bits(zeros.value)) << n;
    EXPECT_TRUE(without.m.same_bits(zeros.m)) << n;
    EXPECT_TRUE(without.v.same_bits(zeros.v)) << n;
  }
}

TEST(AdamWUpdate, FollowsTheWorkedTrajectory) {
  Scalar<double> parameter;
  AdamWStep step{
      .learning_rate = 0.1, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.1};
  const double grads[] = {0.5, -0.25, 0.1};
  const double expected[] = {0.890000002, 0.8544662987, 0.8143972800};
  for (int i = 0; i < 3; ++i) {
    step.t = i + 1;
    parameter.step(step, grads[i]);
    EXPECT_NEAR(parameter.value, expected[i], 1e-10);
  }
}

TEST(AdamWUpdate, MovesByTheLearningRateInTheFirstStep) {
  Scalar<double> parameter;
  parameter.step({.t = 1, .learning_rate = 0.01, .epsilon = 0.0}, -3.0);
  EXPECT_NEAR(parameter.value, 1.01, 1e-15);
}

TEST(AdamWUpdate, ScalingAllGradientsLeavesTheTrajectory) {
  Scalar<double> plain;
  Scalar<double> scaled;
  for (int t = 1; t <= 5; ++t) {
    const AdamWStep step{.t = t, .epsilon = 0.0};
    plain.step(step, 0.3 * t - 1.0);
    scaled.step(step, 1000.0 * (0.3 * t - 1.0));
  }
  EXPECT_NEAR(plain.value, scaled.value, 1e-14);
}

TEST(AdamWUpdate, WithoutGradientsOnlyDecays) {
  Scalar<double> parameter;
  for (int t = 1; t <= 3; ++t) {
    parameter.step({.t = t, .learning_rate = 0.1, .weight_decay = 0.5}, 0.0);
  }
  EXPECT_NEAR(parameter.value, 0.95 * 0.95 * 0.95, 1e-15);
}

TEST(AdamWUpdate, AppliesTheGradientScaleBeforeTheMoments) {
  Scalar<double> clipped;
  Scalar<double> plain;
  clipped.step({.t = 1, .gradient_scale = 0.25}, 2.0);
  plain.step({.t = 1}, 0.5);
  EXPECT_EQ(clipped.m, plain.m);
  EXPECT_EQ(clipped.v, plain.v);
  EXPECT_EQ(clipped.value, plain.value);
}

TEST(AdamWThreads, GiveTheSameBits) {
  constexpr int64_t kCount = 100000;
  const auto grad = Array<float>::uniform(kCount, 4);
  expect_same_bits_on_any_threads([&] {
    Parameter<float> parameter(kCount);
    adamw_update<float>(kCount, {.t = 3}, grad.data(), parameter.state());
    return parameter.value;
  });
}

}  // namespace
}  // namespace sluice::kernels
