#include "autograd/kernels/rope.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/rope.h"
#include "autograd/support/error.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

constexpr double kCoefficient = 4.0;  // two products and a sum of terms below one

/// A table of `positions` angles, kept together with what owns it.
template <class T>
struct Table {
  Table(const RopeConfig& config, int64_t positions)
      : pairs(config.rotary_dim / 2), cos(positions * pairs), sin(positions * pairs) {
    rope_table(rope_frequencies(config), positions, cos.data(), sin.data());
  }
  int64_t pairs;
  Array<T> cos;
  Array<T> sin;
};

template <class T>
class RopeKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(RopeKernel, FloatTypes);

TYPED_TEST(RopeKernel, EqualsTheReferenceInBothLayoutsAndForPartialWidths) {
  using T = TypeParam;
  for (const RopeLayout layout : {RopeLayout::half_split, RopeLayout::interleaved}) {
    for (const int64_t R : {2, 8, 14, 34, 64}) {
      for (const int64_t extra : {0, 3}) {
        for (const int64_t N : {0, 1, 9}) {
          const int64_t H = 3;
          const int64_t n = N * H * (R + extra);
          const Table<T> table({.rotary_dim = R}, 40);
          Array<int32_t> position(N);
          for (int64_t i = 0; i < N; ++i) position[i] = static_cast<int32_t>((7 * i) % 40);
          const Rope<T> rotation{H,
                                 R + extra,
                                 table.pairs,
                                 layout,
                                 position.data(),
                                 table.cos.data(),
                                 table.sin.data()};
          const auto x = Array<T>::uniform(n, 1);
          Array<T> y(n);
          Array<T> expected(n);
          rope(N, rotation, x.data(), y.data());
          reference::rope(N, rotation, x.data(), expected.data());
          expect_close(y, expected.in_double(), kCoefficient);
          for (const bool accumulate : {false, true}) {
            Array<T> grad_x(n, T(0.5));
            Array<T> expected_grad(n, T(0.5));
            rope_backward<T>(N, rotation, x.data(), {grad_x.data(), accumulate});
            reference::rope_backward<T>(N, rotation, x.data(), {expected_grad.data(), accumulate});
            expect_close(grad_x, expected_grad.in_double(), kCoefficient);
          }
        }
      }
    }
  }
}

TYPED_TEST(RopeKernel, GivesTheWorkedNumbersInBothLayouts) {
  using T = TypeParam;
  const Table<T> table({.rotary_dim = 4}, 4);
  const int32_t position = 3;
  const auto x = Array<T>::of({T(1), T(2), T(3), T(4)});
  const double half[] = {-1.413353, 1.879118, -2.828857, 4.058191};
  const double interleaved[] = {-1.272233, -1.838865, 2.878668, 4.088187};
  for (const RopeLayout layout : {RopeLayout::half_split, RopeLayout::interleaved}) {
    Array<T> y(4);
    rope<T>(1, {1, 4, 2, layout, &position, table.cos.data(), table.sin.data()}, x.data(),
            y.data());
    const double* expected = layout == RopeLayout::half_split ? half : interleaved;
    for (int64_t i = 0; i < 4; ++i) EXPECT_NEAR(y[i], expected[i], 1e-6) << i;
  }
}

TYPED_TEST(RopeKernel, LayoutsAreThePermutationOfEachOther) {
  using T = TypeParam;
  constexpr int64_t kWidth = 8;
  const Table<T> table({.rotary_dim = kWidth}, 12);
  const int32_t position = 11;
  const auto x = Array<T>::uniform(kWidth, 1);
  // half(x[p]) = interleaved(x)[p] with p = 0, 2, 4, 6, 1, 3, 5, 7.
  Array<T> permuted(kWidth);
  for (int64_t i = 0; i < kWidth; ++i) permuted[i] = x[2 * (i % 4) + i / 4];
  Array<T> half(kWidth);
  Array<T> interleaved(kWidth);
  Rope<T> rotation{
      1, kWidth, 4, RopeLayout::half_split, &position, table.cos.data(), table.sin.data()};
  rope(1, rotation, permuted.data(), half.data());
  rotation.layout = RopeLayout::interleaved;
  rope(1, rotation, x.data(), interleaved.data());
  for (int64_t i = 0; i < kWidth; ++i) EXPECT_EQ(half[i], interleaved[2 * (i % 4) + i / 4]);
}

TYPED_TEST(RopeKernel, PositionZeroChangesNothingAndBackwardUndoesForward) {
  using T = TypeParam;
  constexpr int64_t kWidth = 16;
  const Table<T> table({.rotary_dim = kWidth}, 30);
  const auto x = Array<T>::uniform(2 * kWidth, 1);
  const auto position = Array<int32_t>::of({0, 29});
  const Rope<T> rotation{1,
                         kWidth,
                         kWidth / 2,
                         RopeLayout::half_split,
                         position.data(),
                         table.cos.data(),
                         table.sin.data()};
  Array<T> y(2 * kWidth);
  rope(2, rotation, x.data(), y.data());
  for (int64_t i = 0; i < kWidth; ++i) EXPECT_EQ(y[i], x[i]);
  Array<T> back(2 * kWidth);
  rope_backward<T>(2, rotation, y.data(), {back.data(), false});
  expect_close(back, x.in_double(), 2.0 * kCoefficient);
}

TEST(RopeFrequencies, FallGeometricallyFromOne) {
  const RopeFrequencies plain = rope_frequencies({.rotary_dim = 4});
  ASSERT_EQ(plain.omega.size(), 2U);
  EXPECT_DOUBLE_EQ(plain.omega[0], 1.0);
  EXPECT_DOUBLE_EQ(plain.omega[1], 0.01);
  EXPECT_EQ(plain.attention_scale, 1.0);
}

TEST(RopeFrequencies, LinearScalingDividesEveryFrequency) {
  const RopeFrequencies scaled =
      rope_frequencies({.rotary_dim = 4, .scaling = RopeScaling::linear, .factor = 4.0});
  EXPECT_DOUBLE_EQ(scaled.omega[0], 0.25);
  EXPECT_DOUBLE_EQ(scaled.omega[1], 0.0025);
}

TEST(RopeFrequencies, Llama3KeepsFastPairsDividesSlowOnesAndBlendsBetween) {
  // Llama 3.1: head 128, theta 5e5, factor 8, frequency factors 1 and 4, original context 8192.
  const RopeConfig config{.rotary_dim = 128,
                          .theta = 500000.0,
                          .scaling = RopeScaling::llama3,
                          .factor = 8.0,
                          .original_max_positions = 8192};
  RopeConfig plain_config = config;
  plain_config.scaling = RopeScaling::none;
  const auto scaled = rope_frequencies(config).omega;
  const auto plain = rope_frequencies(plain_config).omega;
  // Wavelength 2 pi / omega against 8192 / 4 = 2048 and 8192 / 1: pair 28 has 1956, 29 has 2402, 34
  // has 6695, 35 has 8219.
  EXPECT_DOUBLE_EQ(scaled[0], 1.0);
  EXPECT_DOUBLE_EQ(scaled[28], plain[28]);
  for (size_t i = 29; i <= 34; ++i) {
    const double turns = 8192.0 * plain[i] / (2.0 * 3.14159265358979323846);
    const double m = (turns - 1.0) / 3.0;
    EXPECT_GT(m, 0.0);
    EXPECT_LT(m, 1.0);
    EXPECT_NEAR(scaled[i], (1.0 - m) * plain[i] / 8.0 + m * plain[i], 1e-15);
  }
  EXPECT_DOUBLE_EQ(scaled[35], plain[35] / 8.0);
  EXPECT_DOUBLE_EQ(scaled[63], plain[63] / 8.0);
}

TEST(RopeFrequencies, YarnRampsBetweenKeptAndDividedPairs) {
  // dim(32) = 64 ln(4096 / 64 pi) / (2 ln 1e4) = 10.47, dim(1) = 22.51: ramp from pair 10 to
  // pair 23.
  const RopeConfig config{.rotary_dim = 64,
                          .scaling = RopeScaling::yarn,
                          .factor = 16.0,
                          .original_max_positions = 4096};
  const RopeFrequencies yarn = rope_frequencies(config);
  const auto plain = rope_frequencies({.rotary_dim = 64}).omega;
  EXPECT_DOUBLE_EQ(yarn.omega[0], 1.0);
  EXPECT_DOUBLE_EQ(yarn.omega[10], plain[10]);
  const double ramp = (16.0 - 10.0) / 13.0;
  EXPECT_NEAR(yarn.omega[16], plain[16] / 16.0 * ramp + plain[16] * (1.0 - ramp), 1e-15);
  EXPECT_DOUBLE_EQ(yarn.omega[23], plain[23] / 16.0);
  EXPECT_DOUBLE_EQ(yarn.omega[31], plain[31] / 16.0);
  EXPECT_NEAR(yarn.attention_scale, 1.2772588722, 1e-10);  // 0.1 ln 16 + 1
}

TEST(RopeFrequencies, YarnTakesAGivenAttentionFactor) {
  const RopeConfig config{
      .rotary_dim = 8, .scaling = RopeScaling::yarn, .factor = 16.0, .attention_factor = 1.0};
  EXPECT_EQ(rope_frequencies(config).attention_scale, 1.0);
}

TEST(RopeFrequencies, RefuseNumbersOutOfRange) {
  EXPECT_THROW((void)rope_frequencies({.rotary_dim = 5}), ConfigError);
  EXPECT_THROW((void)rope_frequencies({.rotary_dim = 0}), ConfigError);
  EXPECT_THROW((void)rope_frequencies({.rotary_dim = 4, .theta = 1.0}), ConfigError);
  EXPECT_THROW((void)rope_frequencies({.rotary_dim = 4, .factor = 0.5}), ConfigError);
  EXPECT_THROW((void)rope_frequencies({.rotary_dim = 4, .low_frequency_factor = 4.0}), ConfigError);
  EXPECT_THROW((void)rope_frequencies({.rotary_dim = 4, .beta_fast = 0.5}), ConfigError);
}

}  // namespace
}  // namespace sluice::kernels
