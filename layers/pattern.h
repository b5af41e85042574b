#pragma once
// The pattern string of a model.
//
// A symbol is one residual sublayer. Grammar (spaces ignored): pattern = item+ ; item = symbol
// count? | "(" pattern ")" count? | "[" pattern "]" count? ; count = "x"? digits. So "(AE)x6", "(AE)6"
// and "AEAEAEAEAEAE" are the same, and "AF(AE)x5" starts with a dense layer. Square brackets make a
// group of adaptive depth (depth.h) and stay in the expanded string; they do not nest. Symbols are
// case-sensitive.

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
