#include "autograd/support/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace sluice {
namespace {

constexpr RandomKey kKey{42, RandomPurpose::test, 3, 7};

TEST(Random, IsAPureFunctionOfKeyAndCounter) {
  EXPECT_EQ(random_bits(kKey, 1, 2), random_bits(kKey, 1, 2));
  EXPECT_NE(random_bits(kKey, 1, 2), random_bits(kKey, 2, 1));
}

TEST(Random, DiffersInEveryPartOfTheKey) {
  std::set<uint64_t> seen;
  seen.insert(random_u64(kKey, 0, 0));
  seen.insert(random_u64({43, RandomPurpose::test, 3, 7}, 0, 0));
  seen.insert(random_u64({42, RandomPurpose::init, 3, 7}, 0, 0));
  seen.insert(random_u64({42, RandomPurpose::test, 4, 7}, 0, 0));
  seen.insert(random_u64({42, RandomPurpose::test, 3, 8}, 0, 0));
  seen.insert(random_u64(kKey, 1, 0));
  seen.insert(random_u64(kKey, 0, 1));
  seen.insert(random_u64(kKey, 0, uint64_t{1} << 32));
  seen.insert(random_u64(kKey, uint64_t{1} << 32, 0));
  EXPECT_EQ(seen.size(), 9U);
}

TEST(Random, UniformHasItsMeanAndVariance) {
  constexpr int kCount = 100000;
  double sum = 0.0;
  double squares = 0.0;
  for (int i = 0; i < kCount; ++i) {
    const double u = uniform(kKey, 5, static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  // Five standard errors: sqrt(1/12/n), sqrt(4/45/n) / 2.
  EXPECT_NEAR(sum / kCount, 0.5, 5 * std::sqrt(1.0 / 12 / kCount));
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kCount));
}

TEST(Random, NormalHasItsMoments) {
  constexpr int kCount = 100000;
  double sum = 0.0;
  double squares = 0.0;
  double fourths = 0.0;
  for (int i = 0; i < kCount; ++i) {
    const double x = normal(kKey, 6, static_cast<uint64_t>(i));
    sum += x;
    squares += x * x;
    fourths += x * x * x * x;
  }
  EXPECT_NEAR(sum / kCount, 0.0, 5 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 1.0, 5 * std::sqrt(2.0 / kCount));
  EXPECT_NEAR(fourths / kCount, 3.0, 5 * std::sqrt(96.0 / kCount));
}

TEST(Random, IntegersStayBelowTheirBoundAndReachEveryValue) {
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 200; ++i) {
    const uint64_t value = uniform_below(kKey, 0, i, 7);
    ASSERT_LT(value, 7U);
    seen.insert(value);
  }
  EXPECT_EQ(seen.size(), 7U);
  EXPECT_EQ(uniform_below(kKey, 0, 0, 1), 0U);
}

TEST(Random, IsThePublishedPhilox) {
  // Known answers of the authors' reference implementation (kat_vectors of Random123).
  using Bits = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, 0, 0),
            (Bits{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, kOnes, kOnes),
            (Bits{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Random, HashesNamesAsFnv1a) {
  EXPECT_EQ(hash_name("", 0), 0xCBF29CE484222325ULL);
  EXPECT_EQ(hash_name("a", 1), 0xAF63DC4C8601EC8CULL);
}

}  // namespace
}  // namespace sluice
