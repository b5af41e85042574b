#include "balance/prices.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>

#include "autograd/support/parallel.h"

namespace sluice {
namespace {

/// Tokens whose ranking is held in registers and cache at once.
constexpr int64_t kLanes = 64;
/// Scores per block of the parallel loops: tens of microseconds, so that handing a block out costs
/// little beside it.
constexpr int64_t kBlockScores = 32768;

/// The bits of a float: for numbers from 0 up, ordered as the numbers are.
template <class T>
using Bits = std::conditional_t<std::is_same_v<T, float>, int32_t, int64_t>;

/// How many of v [n] are at least x; NaN never is.
template <class T>
int64_t count_at_least(const T* v, int64_t n, T x) {
  // An integer as wide as T keeps the loop in full vectors.
  Bits<T> count = 0;
  for (int64_t i = 0; i < n; ++i) count += static_cast<Bits<T>>(v[i] >= x);
  return count;
}

/// max(0, r-th largest of v [n]), r >= 1; 0 when r > n. Halves the range of bit patterns until a
/// threshold parts the r largest from the rest: exact, without moving or branching on a value.
template <class T>
T positive_rth_largest(const T* v, int64_t n, int64_t r) {
  Bits<T> low = 1;  // the least positive number
  if (count_at_least(v, n, std::bit_cast<T>(low)) < r) return T{0};
  Bits<T> high = std::bit_cast<Bits<T>>(std::numeric_limits<T>::infinity()) + 1;  // NaN: none
  while (high - low > 1) {
    const Bits<T> middle = low + (high - low) / 2;
    const int64_t count = count_at_least(v, n, std::bit_cast<T>(middle));
    if (count < r) {
      high = middle;
      continue;
    }
    low = middle;
    if (count == r) break;
  }
  // At least r values are >= low; when they are exactly r, theirs is the least of them. Compared as
  // bits, since a minimum of floats is not vectorised.
  constexpr Bits<T> kNone = std::numeric_limits<Bits<T>>::max();
  Bits<T> least = kNone;
  for (int64_t i = 0; i < n; ++i) {
    const Bits<T> candidate = v[i] >= std::bit_cast<T>(low) ? std::bit_cast<Bits<T>>(v[i]) : kNone;
    least = std::min(least, candidate);
  }
  return std::bit_cast<T>(least);
}

/// Ranks kLanes tokens at once: best[slot] is the (slot + 1)-th largest value seen, per lane.
template <class T>
void insert_into_ranking(T* candidate, int64_t slots, T* best) {
  for (int64_t slot = 0; slot < slots; ++slot) {
    T* ranked = best + slot * kLanes;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const T held = ranked[lane];
      const T offered = candidate[lane];
      const bool is_better = offered > held;
      ranked[lane] = is_better ? offered : held;
      candidate[lane] = is_better ? held : offered;
    }
  }
}

/// The k + 1 largest of s - q for the tokens first .. first + lanes - 1, at most kLanes: best [k +
/// 1, kLanes].
template <class T>
void rank(const AssignmentProblem<T>& problem, const T* q, int64_t first, int64_t lanes, T* best) {
  T candidate[kLanes] = {};
  std::fill_n(best, (problem.top_k + 1) * kLanes, -std::numeric_limits<T>::infinity());
  for (int64_t e = 0; e < problem.experts; ++e) {
    const T* of_expert = problem.scores + e * problem.tokens + first;
    for (int64_t lane = 0; lane < lanes; ++lane) candidate[lane] = of_expert[lane] - q[e];
    insert_into_ranking(candidate, problem.top_k + 1, best);
  }
}

}  // namespace

template <class T>
void price_tokens(const AssignmentProblem<T>& problem, const T* q, T* p) {
  const int64_t tokens = problem.tokens;
  const int64_t experts = problem.experts;
  const int64_t top_k = problem.top_k;
  if (top_k >= experts) {
    std::fill_n(p, tokens, T{0});
    return;
  }
  const int64_t token_block = ceil_div(ceil_div(kBlockScores, experts), kLanes) * kLanes;
  parallel_for_ranges(tokens, token_block, [&](int64_t begin, int64_t end) {
    ArenaScope scratch(thread_arena());
    T* best = scratch.allocate<T>((top_k + 1) * kLanes);
    for (int64_t first = begin; first < end; first += kLanes) {
      const int64_t lanes = std::min(kLanes, end - first);
      rank(problem, q, first, lanes, best);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        p[first + lane] = std::max(T{0}, best[top_k * kLanes + lane]);
      }
    }
  });
}

template <class T>
void price_experts(const AssignmentProblem<T>& problem, const T* p, T* q) {
  const int64_t expert_block = ceil_div(kBlockScores, std::max(problem.tokens, int64_t{1}));
  parallel_for_ranges(problem.experts, expert_block, [&](int64_t begin, int64_t end) {
    ArenaScope scratch(thread_arena());
    T* surplus = scratch.allocate<T>(problem.tokens);
    for (int64_t e = begin; e < end; ++e) {
      const T* of_expert = problem.scores + e * problem.tokens;
      for (int64_t t = 0; t < problem.tokens; ++t) surplus[t] = of_expert[t] - p[t];
      q[e] = positive_rth_largest(surplus, problem.tokens, problem.capacity + 1);
      if (problem.midpoint && problem.capacity >= 1 && problem.capacity < problem.tokens) {
        const T last = positive_rth_largest(surplus, problem.tokens, problem.capacity);
        q[e] += (last - q[e]) / 2;
      }
    }
  });
}

template void price_tokens<float>(const AssignmentProblem<float>&, const float*, float*);
template void price_tokens<double>(const AssignmentProblem<double>&, const double*, double*);
template void price_experts<float>(const AssignmentProblem<float>&, const float*, float*);
template void price_experts<double>(const AssignmentProblem<double>&, const double*, double*);

}  // namespace sluice
