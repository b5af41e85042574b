#include "autograd/kernels/dropout.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/dropout.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

constexpr RandomKey kKey{3, RandomPurpose::dropout, 2, 7};

/// Three sequences of which the second is empty.
struct Streams {
  std::vector<int64_t> offsets{0, 4, 4, 9};
  std::vector<uint64_t> samples{100, 101, 102};
  [[nodiscard]] RowStreams view() const { return {kKey, 3, offsets.data(), samples.data()}; }
  static constexpr int64_t kRows = 9;
};

TEST(DropoutKernel, EqualsTheReferenceAtEveryWidth) {
  const Streams streams;
  for (const int64_t cols : {1, 3, 4, 5, 16, 33}) {
    const auto x = Array<float>::uniform(Streams::kRows * cols, 1);
    for (const double probability : {0.0, 0.1, 0.5, 0.9}) {
      for (const bool accumulate : {false, true}) {
        Array<float> y(x.size(), 0.5F);
        Array<float> expected(x.size(), 0.5F);
        dropout<float>(cols, streams.view(), probability, x.data(), {y.data(), accumulate});
        reference::dropout<float>(cols, streams.view(), probability, x.data(),
                                  {expected.data(), accumulate});
        expect_close(y, expected.in_double(), 1.0);
      }
    }
  }
}

TEST(DropoutKernel, KeepsAShareAndPreservesTheMean) {
  const std::vector<int64_t> offsets{0, 200};
  const uint64_t sample = 1;
  const RowStreams streams{kKey, 1, offsets.data(), &sample};
  const Array<float> ones(200 * 100, 1.0F);
  Array<float> y(200 * 100);
  dropout<float>(100, streams, 0.3, ones.data(), {y.data(), false});
  double sum = 0;
  int64_t kept = 0;
  for (int64_t i = 0; i < y.size(); ++i) {
    sum += static_cast<double>(y[i]);
    kept += y[i] != 0.0F ? 1 : 0;
  }
  // Four standard deviations of 20000 draws: sqrt(20000 * 0.3 * 0.7) = 65.
  EXPECT_NEAR(static_cast<double>(kept), 14000.0, 4 * 65.0);
  EXPECT_NEAR(sum / 20000.0, 1.0, 4 * 65.0 / 14000.0);
}

TEST(DropoutKernel, ARowsMaskDependsOnItsSequenceAndPositionAlone) {
  const Streams streams;
  constexpr int64_t kWidth = 10;
  const auto x = Array<float>::uniform(Streams::kRows * kWidth, 1);
  Array<float> together(x.size());
  dropout<float>(kWidth, streams.view(), 0.5, x.data(), {together.data(), false});
  // The third sequence by itself, as in another micro-batch.
  const std::vector<int64_t> offsets{0, 5};
  const uint64_t sample = 102;
  Array<float> alone(5 * kWidth);
  dropout<float>(kWidth, {kKey, 1, offsets.data(), &sample}, 0.5, x.data() + 4 * kWidth,
                 {alone.data(), false});
  for (int64_t i = 0; i < alone.size(); ++i) EXPECT_EQ(alone[i], together[4 * kWidth + i]);
}

TEST(JitterKernel, EqualsTheReferenceAndStaysInItsRange) {
  const Streams streams;
  for (const int64_t cols : {1, 4, 7, 32}) {
    const Array<float> ones(Streams::kRows * cols, 1.0F);
    Array<float> y(ones.size());
    Array<float> expected(ones.size());
    jitter<float>(cols, streams.view(), 0.01, ones.data(), {y.data(), false});
    reference::jitter<float>(cols, streams.view(), 0.01, ones.data(), {expected.data(), false});
    expect_close(y, expected.in_double(), 1.0);
    for (int64_t i = 0; i < y.size(); ++i) {
      EXPECT_GE(y[i], 0.99F);
      EXPECT_LE(y[i], 1.01F);
    }
  }
}

TEST(JitterKernel, WithoutAWidthIsTheIdentity) {
  const Streams streams;
  const auto x = Array<float>::uniform(Streams::kRows * 6, 1);
  Array<float> y(x.size());
  jitter<float>(6, streams.view(), 0.0, x.data(), {y.data(), false});
  EXPECT_TRUE(y.same_bits(x));
}

TEST(NormalNoiseKernel, HasMeanZeroAndVarianceOne) {
  const std::vector<int64_t> offsets{0, 200};
  const uint64_t sample = 1;
  Array<double> y(200 * 50);
  normal_noise<double>(50, {kKey, 1, offsets.data(), &sample}, y.data());
  double sum = 0;
  double squares = 0;
  for (int64_t i = 0; i < y.size(); ++i) {
    sum += y[i];
    squares += y[i] * y[i];
  }
  // Four standard deviations of the mean of 10000 draws.
  EXPECT_NEAR(sum / 10000.0, 0.0, 0.04);
  EXPECT_NEAR(squares / 10000.0, 1.0, 0.06);
}

}  // namespace
}  // namespace sluice::kernels
