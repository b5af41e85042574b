#pragma once
// What methods that solve a whole micro-batch at once share: its counted tokens, and a selection
// from values of their own.

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/support/arena.h"
#include "layers/routing.h"

namespace sluice {

/// Indices of the tokens with a loss, in order.
[[nodiscard]] std::vector<int64_t> counted_tokens(const SequenceLayout& layout);
/// The same, into `tokens`, whose memory is reused.
void counted_tokens(const SequenceLayout& layout, std::vector<int64_t>& tokens);

/// The given rows of x [N, E] in double: [T, E].
[[nodiscard]] std::vector<double> rows_of(const Tensor& x, std::span<const int64_t> tokens);

/// All of x [N, E] in double, with shift [E] (or empty) added to every row. Lives in `scratch`.
[[nodiscard]] std::span<double> shifted_rows(ArenaScope& scratch, const Tensor& x,
                                             std::span<const double> shift);

/// Fills `selection` with the top k of every row of values [N, E], best first, ties to the lower
/// index, NaN last; marked as shifted, since the scores alone did not decide.
void select_top_k(std::span<const double> values, int64_t tokens, int64_t experts, int64_t top_k,
                  Selection& selection);

/// Fills `selection` with the experts of every row whose value is above 0, best first, ties to the
/// lower index; `values` is [N, E]. The row with most of them, but at least `least_slots`, gives
/// the number of slots; free ones hold kNoExpert. Marked as shifted.
void select_positive(std::span<const double> values, int64_t tokens, int64_t experts,
                     int64_t least_slots, Selection& selection);

}  // namespace sluice
