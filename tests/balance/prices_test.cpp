#include "balance/prices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

/// A problem that owns its scores.
template <class T>
struct Scores {
  int64_t tokens;
  int64_t experts;
  int64_t top_k;
  std::vector<T> by_expert;  // [E, T]

  [[nodiscard]] AssignmentProblem<T> problem() const {
    return {tokens, experts, top_k, tokens * top_k / experts, by_expert.data()};
  }
  [[nodiscard]] T at(int64_t token, int64_t expert) const {
    return by_expert[static_cast<size_t>(expert * tokens + token)];
  }
  [[nodiscard]] std::vector<T> price_tokens(const std::vector<T>& q) const {
    std::vector<T> p(static_cast<size_t>(tokens));
    sluice::price_tokens(problem(), q.data(), p.data());
    return p;
  }
  [[nodiscard]] std::vector<T> price_experts(const std::vector<T>& p) const {
    std::vector<T> q(static_cast<size_t>(experts));
    sluice::price_experts(problem(), p.data(), q.data());
    return q;
  }
};

template <class T>
Scores<T> random_scores(int64_t tokens, int64_t experts, int64_t top_k, uint64_t seed = 1) {
  Scores<T> scores{tokens, experts, top_k, {}};
  const RandomKey key{.seed = seed, .purpose = RandomPurpose::test};
  for (int64_t i = 0; i < tokens * experts; ++i) {
    scores.by_expert.push_back(static_cast<T>(uniform(key, 0, static_cast<uint64_t>(i))));
  }
  return scores;
}

/// The definition: max(0, r-th largest), NaN last.
template <class T>
T rth_largest(std::vector<T> values, size_t r) {
  if (r > values.size()) return T{0};
  for (T& value : values) {
    if (std::isnan(value)) value = -std::numeric_limits<T>::infinity();
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  return std::max(T{0}, values[r - 1]);
}

template <class T>
void expect_definition(const Scores<T>& scores, const std::vector<T>& q, const std::vector<T>& p) {
  const AssignmentProblem<T> problem = scores.problem();
  const std::vector<T> new_p = scores.price_tokens(q);
  for (int64_t t = 0; t < scores.tokens; ++t) {
    std::vector<T> row;
    for (int64_t e = 0; e < scores.experts; ++e) {
      row.push_back(scores.at(t, e) - q[static_cast<size_t>(e)]);
    }
    EXPECT_EQ(new_p[static_cast<size_t>(t)],
              rth_largest(row, static_cast<size_t>(problem.top_k + 1)));
  }
  const std::vector<T> new_q = scores.price_experts(p);
  for (int64_t e = 0; e < scores.experts; ++e) {
    std::vector<T> column;
    for (int64_t t = 0; t < scores.tokens; ++t) {
      column.push_back(scores.at(t, e) - p[static_cast<size_t>(t)]);
    }
    EXPECT_EQ(new_q[static_cast<size_t>(e)],
              rth_largest(column, static_cast<size_t>(problem.capacity + 1)));
  }
}

template <class T>
double dual_value(const Scores<T>& scores, const std::vector<T>& p, const std::vector<T>& q) {
  const AssignmentProblem<T> problem = scores.problem();
  double value = 0.0;
  for (const T x : p) value += static_cast<double>(problem.top_k) * static_cast<double>(x);
  for (const T x : q) value += static_cast<double>(problem.capacity) * static_cast<double>(x);
  for (int64_t t = 0; t < scores.tokens; ++t) {
    for (int64_t e = 0; e < scores.experts; ++e) {
      value += std::max(0.0, static_cast<double>(scores.at(t, e)) -
                                 static_cast<double>(p[static_cast<size_t>(t)]) -
                                 static_cast<double>(q[static_cast<size_t>(e)]));
    }
  }
  return value;
}

template <class T>
class Prices : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Prices, FloatTypes);

TYPED_TEST(Prices, AreTheOrderStatisticsOfTheirDefinition) {
  // Around the number of tokens that are ranked together, and odd.
  for (const int64_t tokens : {1, 2, 7, 63, 64, 65, 257, 1000}) {
    for (const auto& [experts, top_k] :
         std::vector<std::pair<int64_t, int64_t>>{{2, 1}, {5, 2}, {16, 4}, {33, 32}}) {
      const auto scores = random_scores<TypeParam>(tokens, experts, top_k);
      const auto prices = random_scores<TypeParam>(tokens + experts, 1, 1, /*seed=*/2).by_expert;
      const std::vector<TypeParam> q(prices.begin(), prices.begin() + experts);
      const std::vector<TypeParam> p(prices.begin() + experts, prices.end());
      expect_definition(scores, q, p);
    }
  }
}

TYPED_TEST(Prices, InTheMiddleMinimiseTheSameDual) {
  const auto scores = random_scores<TypeParam>(64, 8, 2);
  const std::vector<TypeParam> p(64, 0);
  auto problem = scores.problem();
  const std::vector<TypeParam> q = scores.price_experts(p);
  problem.midpoint = true;
  std::vector<TypeParam> middle(8);
  price_experts(problem, p.data(), middle.data());
  for (int64_t e = 0; e < 8; ++e) {
    const auto i = static_cast<size_t>(e);
    EXPECT_GT(middle[i], q[i]);
    int64_t takers = 0;
    for (int64_t t = 0; t < 64; ++t) {
      takers += scores.at(t, e) - p[static_cast<size_t>(t)] > middle[i] ? 1 : 0;
    }
    EXPECT_EQ(takers, problem.capacity);
  }
  // 64 x 8 sums of three numbers up to 1, each rounded in T.
  const double rounding = 1024 * static_cast<double>(std::numeric_limits<TypeParam>::epsilon());
  EXPECT_NEAR(dual_value(scores, p, middle), dual_value(scores, p, q), rounding);
}

TYPED_TEST(Prices, ResolveTies) {
  Scores<TypeParam> scores{6, 3, 1, {}};
  for (int i = 0; i < 18; ++i) scores.by_expert.push_back(TypeParam(i % 2) / 2);
  expect_definition(scores, {0, 0, 0}, std::vector<TypeParam>(6, 0));
}

TYPED_TEST(Prices, OfSurplusesBelowZeroAreZero) {
  const auto scores = random_scores<TypeParam>(12, 4, 2);
  EXPECT_EQ(scores.price_experts(std::vector<TypeParam>(12, 2)), std::vector<TypeParam>(4, 0));
  EXPECT_EQ(scores.price_tokens(std::vector<TypeParam>(4, 2)), std::vector<TypeParam>(12, 0));
}

TYPED_TEST(Prices, RankNanAfterEveryNumber) {
  auto scores = random_scores<TypeParam>(70, 4, 2);
  for (const size_t i : {0U, 5U, 77U, 150U, 209U, 279U}) {
    scores.by_expert[i] = std::numeric_limits<TypeParam>::quiet_NaN();
  }
  expect_definition(scores, std::vector<TypeParam>(4, 0), std::vector<TypeParam>(70, 0));
}

TYPED_TEST(Prices, AreZeroWhenEveryTokenGoesToEveryExpert) {
  const auto scores = random_scores<TypeParam>(10, 3, 3);
  EXPECT_EQ(scores.price_tokens({0, 0, 0}), std::vector<TypeParam>(10, 0));
  EXPECT_EQ(scores.price_experts(std::vector<TypeParam>(10, 0)), std::vector<TypeParam>(3, 0));
}

TYPED_TEST(Prices, OfNoTokensAreZero) {
  const auto scores = random_scores<TypeParam>(0, 3, 1);
  EXPECT_TRUE(scores.price_tokens({0, 0, 0}).empty());
  EXPECT_EQ(scores.price_experts({}), std::vector<TypeParam>(3, 0));
}

TYPED_TEST(Prices, LowerTheDualAtEveryHalfStepAndStayAboveEveryAssignment) {
  const auto scores = random_scores<TypeParam>(64, 8, 2);
  std::vector<TypeParam> q(8, 0);
  std::vector<TypeParam> p = scores.price_tokens(q);
  double value = dual_value(scores, p, q);
  // Prices and surpluses are rounded once in T, and their sum of 512 terms in double.
  const double rounding = (static_cast<double>(std::numeric_limits<TypeParam>::epsilon()) +
                           512 * std::numeric_limits<double>::epsilon()) *
                          value;
  for (int half_step = 0; half_step < 20; ++half_step) {
    if (half_step % 2 == 0) {
      q = scores.price_experts(p);
    } else {
      p = scores.price_tokens(q);
    }
    const double next = dual_value(scores, p, q);
    EXPECT_LE(next, value + rounding);
    value = next;
  }
  // Token t to experts t and t + 1 modulo 8: every expert gets its 16.
  double feasible = 0.0;
  for (int64_t t = 0; t < 64; ++t) {
    feasible +=
        static_cast<double>(scores.at(t, t % 8)) + static_cast<double>(scores.at(t, (t + 1) % 8));
  }
  EXPECT_GE(value, feasible);
}

TYPED_TEST(Prices, FollowAPermutationOfTokensAndExperts) {
  const auto scores = random_scores<TypeParam>(50, 5, 2);
  auto reversed = scores;
  std::reverse(reversed.by_expert.begin(), reversed.by_expert.end());
  std::vector<TypeParam> q(5, 0);
  std::vector<TypeParam> reversed_q(5, 0);
  for (int i = 0; i < 4; ++i) {
    q = scores.price_experts(scores.price_tokens(q));
    reversed_q = reversed.price_experts(reversed.price_tokens(reversed_q));
  }
  std::reverse(reversed_q.begin(), reversed_q.end());
  EXPECT_EQ(q, reversed_q);
}

TYPED_TEST(Prices, OfAnExpertRiseWithItsScores) {
  // Multiples of 1/64 add without rounding.
  Scores<TypeParam> scores{40, 4, 1, {}};
  for (int i = 0; i < 160; ++i) scores.by_expert.push_back(TypeParam((i * 37) % 64) / 64);
  const std::vector<TypeParam> p(40, 0);
  const auto before = scores.price_experts(p);
  auto raised = scores;
  for (size_t t = 0; t < 40; ++t) raised.by_expert[2 * 40 + t] += TypeParam(0.25);
  const auto after = raised.price_experts(p);
  ASSERT_GT(before[2], 0);
  EXPECT_EQ(after[2], before[2] + TypeParam(0.25));
  EXPECT_EQ(after[1], before[1]);
}

TYPED_TEST(Prices, DoNotDependOnTheNumberOfThreads) {
  const auto scores = random_scores<TypeParam>(3000, 16, 4);
  std::vector<std::vector<TypeParam>> results;
  const int threads_before = num_threads();
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    results.push_back(
        scores.price_experts(scores.price_tokens(std::vector<TypeParam>(16, TypeParam(0.1)))));
  }
  set_num_threads(threads_before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

}  // namespace
}  // namespace sluice
