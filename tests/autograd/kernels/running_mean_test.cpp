#include "autograd/kernels/running_mean.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/running_mean.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

const std::vector<std::vector<int64_t>> kPacks = {{0}, {0, 1}, {0, 7}, {0, 1, 1, 30, 33}};

template <class T>
class RunningMean : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(RunningMean, FloatTypes);

TYPED_TEST(RunningMean, EqualsTheReference) {
  using T = TypeParam;
  for (const std::vector<int64_t>& documents : kPacks) {
    for (const int64_t D : {1, 7, 64, 130}) {
      const int64_t size = documents.back() * D;
      const auto x = Array<T>::uniform(size, 1);
      const Array<double> exact = x.in_double();
      for (const bool accumulate : {false, true}) {
        Array<T> y(size);
        Array<T> grad(size, T(0.5));
        running_mean<T>(D, documents, x.data(), y.data());
        running_mean_backward<T>(D, documents, x.data(), {grad.data(), accumulate});
        Array<double> expected(size);
        Array<double> expected_grad(size, 0.5);
        reference::running_mean<double>(D, documents, exact.data(), expected.data());
        reference::running_mean_backward<double>(D, documents, exact.data(),
                                                 {expected_grad.data(), accumulate});
        // In double the two differ by the order of a sum of up to 30 terms.
        expect_close(y, expected, 32.0);
        expect_close(grad, expected_grad, 32.0);
      }
    }
  }
}

TYPED_TEST(RunningMean, GoesOnWhereAnEarlierCallLeftIt) {
  using T = TypeParam;
  const int64_t D = 70;
  const auto x = Array<T>::uniform(20 * D, 1);
  Array<T> whole(20 * D);
  const std::vector<int64_t> document{0, 20};
  running_mean<T>(D, document, x.data(), whole.data());
  Array<T> pieces(20 * D);
  std::vector<double> sums(static_cast<size_t>(D), 0.0);
  int64_t begin = 0;
  for (const int64_t count : {1, 6, 1, 12}) {
    const std::vector<int64_t> piece{0, count};
    const RunningSums state{sums.data(), begin};
    running_mean<T>(D, piece, x.data() + begin * D, pieces.data() + begin * D, &state);
    begin += count;
  }
  EXPECT_TRUE(pieces.same_bits(whole));
}

TYPED_TEST(RunningMean, GivesTheSameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  const int64_t D = 200;
  const std::vector<int64_t> documents{0, 90, 100, 300};
  const auto x = Array<T>::uniform(300 * D, 1);
  expect_same_bits_on_any_threads([&] {
    Array<T> all(600 * D);
    running_mean<T>(D, documents, x.data(), all.data());
    running_mean_backward<T>(D, documents, x.data(), {all.data() + 300 * D, false});
    return all;
  });
}

}  // namespace
}  // namespace sluice::kernels
