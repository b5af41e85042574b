#pragma once
// The pattern string of a model.
//
// A symbol is one residual sublayer. Grammar (spaces ignored): pattern = item+ ; item = symbol
// count? | "(" pattern ")" count? | "[" pattern "]" count? | "{" (symbol count)+ "}" count? ; count = "x"?
// digits. So "(AE)x6", "(AE)6"
// and "AEAEAEAEAEAE" are the same, and "AF(AE)x5" starts with a dense layer. Square brackets make a
// group of adaptive depth (depth.h) and stay in the expanded string; they do not nest. Symbols are
// case-sensitive.
//
// Curly brackets spread sublayers evenly by the rule of Megatron-LM's hybrid models: "{M24 A4 F28}" is a
// stack of 56 whose 4 A part the others into five runs of equal length, to one, so that it begins and
// ends without an A; then the F take, in turns and as late as they can, their share of the places that
// are left, and the M keep the rest.

#include <string>
#include <string_view>

namespace sluice {

/// Longest expanded pattern that is accepted, in sublayers.
inline constexpr int64_t kMaxSublayers = 4096;

/// The expanded string of symbols and square brackets. Throws ConfigError with the position (from 1),
/// what was found and what is allowed: an unknown symbol, an unbalanced bracket, a count of zero, an
/// empty pattern or group, more than kMaxSublayers symbols.
[[nodiscard]] std::string expand_pattern(std::string_view pattern, std::string_view symbols);

}  // namespace sluice
