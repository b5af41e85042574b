#pragma once
// The exact balanced assignment of tokens to experts:
//
//   max sum a_te x_te   with   sum_e x_te = k,   floor(Tk/E) <= sum_t x_te <= ceil(Tk/E),
//                              x_te in {0, 1}
//
// By successive shortest paths. Every token starts with its k best experts, which is optimal
// without the bounds; then every token too many at one expert moves along a cheapest chain of
// moves to an expert with too few. The chain is a shortest path in a graph of only E + 1 nodes,
// since the cost of going from e to f is the least a_te - a_tf over the tokens at e. Every step
// leaves an optimal assignment for the loads reached so far (Edmonds and Karp 1972), so the end is
// an exact optimum up to the rounding of sums of E differences.
//
// Letters: T tokens, E experts, k experts per token.

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

struct BalancedAssignment {
  /// [T, k]: experts of each token, largest affinity first, ties to the lower index.
  std::vector<int32_t> expert;
  /// [E]: prices of the dual. Every token's experts are a top-k of its affinities less the prices,
  /// ties aside: what a token outside the problem can be routed by.
  std::vector<double> price;
};

/// `affinity` is [T, E], 1 <= k <= E. An affinity of minus infinity or NaN counts as the least
/// finite one, plus infinity as the greatest. Ties go to the lower token. O(T E k) to start, in
/// parallel, then O(E^2 + T k) for each move that takes a token off an expert with too many; serial.
[[nodiscard]] BalancedAssignment assign_balanced(std::span<const double> affinity, int64_t tokens,
                                                 int64_t experts, int64_t top_k);

}  // namespace sluice
