#pragma once
// The choice that most routers share: the k best of scores + shift per token.

#include <cstdint>
#include <span>

#include "layers/routing.h"

namespace sluice {

/// Fills selection.expert (and its sizes) with the top k of scores[n] + shift, best first, ties to
/// the lower index, NaN last. `scores` is [N, E]; shift is in double [E], the same for every token,
/// or [N, E], or empty. `mask`, when given, rewrites the E biased scores of a token in place (minus
/// infinity excludes). On a pool for shapes only the tokens are dealt out in turn: balanced loads.
void choose_top_k(const Tensor& scores, std::span<const double> shift, int64_t top_k,
                  Selection& selection);
void choose_top_k(const Tensor& scores, std::span<const double> shift, int64_t top_k,
                  Selection& selection, FunctionRef<void(std::span<double> biased)> mask);

/// Keeps the first count(token, chosen) slots of every token, from 0 to k, and empties the others;
/// `chosen` are its k experts, best first. Called on many threads. Nothing on a selection without
/// tokens.
void keep_first(Selection& selection,
                FunctionRef<int64_t(int64_t token, std::span<const int32_t> chosen)> count);

}  // namespace sluice
