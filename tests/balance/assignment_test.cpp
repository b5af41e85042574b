#include "balance/assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "autograd/support/rng.h"

namespace sluice {
namespace {

struct Problem {
  int64_t tokens;
  int64_t experts;
  int64_t top_k;
  std::vector<double> affinity;

  [[nodiscard]] BalancedAssignment solve() const {
    return assign_balanced(affinity, tokens, experts, top_k);
  }
  [[nodiscard]] double at(int64_t t, int64_t e) const {
    return affinity[static_cast<size_t>(t * experts + e)];
  }
};

/// Normal affinities with a slope over the experts, so that a greedy choice is far from balance;
/// `steps` > 0 rounds them to that many to the unit, which makes ties.
Problem random_problem(int64_t tokens, int64_t experts, int64_t top_k, uint64_t seed,
                       double steps = 0.0) {
  Problem problem{tokens, experts, top_k, {}};
  const RandomKey key{.seed = seed, .purpose = RandomPurpose::test};
  for (int64_t i = 0; i < tokens * experts; ++i) {
    double a = normal(key, 0, static_cast<uint64_t>(i)) - 0.7 * static_cast<double>(i % experts);
    if (steps > 0.0) a = std::round(a * steps) / steps;
    problem.affinity.push_back(a);
  }
  return problem;
}

std::vector<int64_t> loads_of(const Problem& problem, const std::vector<int32_t>& expert) {
  std::vector<int64_t> loads(static_cast<size_t>(problem.experts), 0);
  for (const int32_t e : expert) ++loads[static_cast<size_t>(e)];
  return loads;
}

double total_of(const Problem& problem, const std::vector<int32_t>& expert) {
  double total = 0.0;
  for (size_t slot = 0; slot < expert.size(); ++slot) {
    total += problem.at(static_cast<int64_t>(slot) / problem.top_k, expert[slot]);
  }
  return total;
}

/// The best total over every feasible assignment of the tokens from `token` on.
double brute_force(const Problem& problem, int64_t token, std::vector<int64_t>& loads) {
  const int64_t slots = problem.tokens * problem.top_k;
  const int64_t floor = slots / problem.experts;
  const int64_t ceiling = floor + (slots % problem.experts > 0 ? 1 : 0);
  if (token == problem.tokens) {
    const bool is_balanced =
        std::ranges::all_of(loads, [&](int64_t c) { return c >= floor && c <= ceiling; });
    return is_balanced ? 0.0 : -std::numeric_limits<double>::infinity();
  }
  double best = -std::numeric_limits<double>::infinity();
  for (uint32_t set = 0; set < (1U << problem.experts); ++set) {
    if (std::popcount(set) != problem.top_k) continue;
    double own = 0.0;
    bool fits = true;
    for (int64_t e = 0; e < problem.experts; ++e) {
      if ((set >> e & 1U) == 0) continue;
      own += problem.at(token, e);
      fits &= ++loads[static_cast<size_t>(e)] <= ceiling;
    }
    if (fits) best = std::max(best, own + brute_force(problem, token + 1, loads));
    for (int64_t e = 0; e < problem.experts; ++e) {
      if ((set >> e & 1U) != 0) --loads[static_cast<size_t>(e)];
    }
  }
  return best;
}

void expect_feasible(const Problem& problem, const BalancedAssignment& assignment) {
  const int64_t slots = problem.tokens * problem.top_k;
  ASSERT_EQ(static_cast<int64_t>(assignment.expert.size()), slots);
  for (const int64_t load : loads_of(problem, assignment.expert)) {
    EXPECT_GE(load, slots / problem.experts);
    EXPECT_LE(load, (slots + problem.experts - 1) / problem.experts);
  }
  for (int64_t t = 0; t < problem.tokens; ++t) {
    for (int64_t slot = 1; slot < problem.top_k; ++slot) {
      const auto at = static_cast<size_t>(t * problem.top_k + slot);
      const double before = problem.at(t, assignment.expert[at - 1]);
      const double after = problem.at(t, assignment.expert[at]);
      EXPECT_TRUE(before > after ||
                  (before == after && assignment.expert[at - 1] < assignment.expert[at]));
    }
  }
}

/// Every token's experts are a top-k of affinities less prices: with the loads, a proof that the
/// assignment is optimal.
void expect_prices_support(const Problem& problem, const BalancedAssignment& assignment,
                           double tolerance) {
  for (int64_t t = 0; t < problem.tokens; ++t) {
    const auto first = assignment.expert.begin() + t * problem.top_k;
    double least_chosen = std::numeric_limits<double>::infinity();
    double best_left = -std::numeric_limits<double>::infinity();
    for (int32_t e = 0; e < static_cast<int32_t>(problem.experts); ++e) {
      const double net = problem.at(t, e) - assignment.price[static_cast<size_t>(e)];
      const bool is_chosen = std::find(first, first + problem.top_k, e) != first + problem.top_k;
      if (is_chosen) least_chosen = std::min(least_chosen, net);
      if (!is_chosen) best_left = std::max(best_left, net);
    }
    EXPECT_GE(least_chosen, best_left - tolerance) << "token " << t;
  }
}

TEST(AssignBalanced, SolvesTheWorkedExample) {
  const Problem problem{4, 2, 1, {5, 1, 4, 3, 3.5, 3, 1, .5}};
  const BalancedAssignment assignment = problem.solve();
  EXPECT_EQ(assignment.expert, (std::vector<int32_t>{0, 0, 1, 1}));
  EXPECT_EQ(total_of(problem, assignment.expert), 12.5);
}

TEST(AssignBalanced, FindsTheOptimumOfEverySmallProblem) {
  for (const auto& [tokens, experts, top_k] :
       std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 3, 1},
                                                          {2, 3, 2},
                                                          {4, 2, 1},
                                                          {6, 3, 1},
                                                          {7, 3, 1},
                                                          {5, 4, 2},
                                                          {6, 4, 2},
                                                          {5, 4, 3},
                                                          {5, 5, 1},
                                                          {4, 4, 4}}) {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      for (const double steps : {0.0, 2.0}) {
        const Problem problem = random_problem(tokens, experts, top_k, seed, steps);
        std::vector<int64_t> loads(static_cast<size_t>(experts), 0);
        const BalancedAssignment assignment = problem.solve();
        expect_feasible(problem, assignment);
        EXPECT_NEAR(total_of(problem, assignment.expert), brute_force(problem, 0, loads), 1e-12)
            << tokens << " tokens, " << experts << " experts, k " << top_k << ", seed " << seed;
        expect_prices_support(problem, assignment, 1e-12);
      }
    }
  }
}

TEST(AssignBalanced, ProvesItsOptimumOfLargerProblems) {
  for (const auto& [tokens, experts, top_k] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {512, 8, 1}, {500, 16, 2}, {301, 7, 3}, {64, 33, 6}, {515, 64, 6}}) {
    const Problem problem = random_problem(tokens, experts, top_k, 3);
    const BalancedAssignment assignment = problem.solve();
    expect_feasible(problem, assignment);
    // Each path adds up to E differences of a few units.
    expect_prices_support(problem, assignment, 1e-11);
  }
}

TEST(AssignBalanced, LeavesABalancedChoiceAlone) {
  const Problem problem{4, 2, 1, {1, 0, 0, 1, 1, 0, 0, 1}};
  const BalancedAssignment assignment = problem.solve();
  EXPECT_EQ(assignment.expert, (std::vector<int32_t>{0, 1, 0, 1}));
  EXPECT_EQ(assignment.price, (std::vector<double>{0.0, 0.0}));
}

TEST(AssignBalanced, DealsOutEqualAffinities) {
  const Problem problem{10, 4, 2, std::vector<double>(40, 0.5)};
  expect_feasible(problem, problem.solve());
}

TEST(AssignBalanced, BalancesWhenEveryTokenWantsTheSameExpert) {
  Problem problem{100, 10, 1, std::vector<double>(1000, 0.0)};
  for (size_t t = 0; t < 100; ++t) problem.affinity[t * 10 + 4] = 1.0 + 0.01 * double(t);
  const BalancedAssignment assignment = problem.solve();
  expect_feasible(problem, assignment);
  // Who wants it most stays.
  for (size_t t = 90; t < 100; ++t) EXPECT_EQ(assignment.expert[t], 4);
}

TEST(AssignBalanced, WorksWithoutTokensAndWithOneExpert) {
  EXPECT_TRUE((Problem{0, 4, 2, {}}.solve().expert.empty()));
  EXPECT_EQ((Problem{3, 1, 1, {1, 2, 3}}.solve().expert), (std::vector<int32_t>{0, 0, 0}));
}

TEST(AssignBalanced, TakesAffinitiesThatAreNotFinite) {
  Problem problem = random_problem(20, 4, 2, 5);
  problem.affinity[3] = std::nan("");
  problem.affinity[17] = std::numeric_limits<double>::infinity();
  problem.affinity[42] = -std::numeric_limits<double>::infinity();
  const BalancedAssignment assignment = problem.solve();
  for (const int64_t load : loads_of(problem, assignment.expert)) EXPECT_EQ(load, 10);
  for (const double price : assignment.price) EXPECT_TRUE(std::isfinite(price));
  const Problem hopeless{4, 2, 1, std::vector<double>(8, std::nan(""))};
  EXPECT_EQ(loads_of(hopeless, hopeless.solve().expert), (std::vector<int64_t>{2, 2}));
}

}  // namespace
}  // namespace sluice
