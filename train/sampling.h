#pragma once
// From logits to the next token.
//
//   softmax(logits / temperature), of which the top_k likeliest tokens stay, of which the fewest
//   that together have a probability of at least top_p stay (nucleus sampling; Holtzman, Buys, Du,
//   Forbes, Choi 2020), renormalised after each cut.
//
// Letters: V vocabulary.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace sluice {

struct SamplingOptions {
  double temperature = 1.0;      // 0: always the likeliest token
  std::optional<int64_t> top_k;  // at least 1
  double top_p = 1.0;            // in (0, 1]

  /// Throws ConfigError naming the flag, what was found and what is allowed.
  void check() const;
};

struct TokenProbability {
  int32_t token = 0;
  double probability = 0.0;
};

/// The tokens that may be drawn, likeliest first (the lower id first among equals), with
/// probabilities that sum to 1. `logits` [V]. Throws NumericError when one is NaN or plus infinity;
/// minus infinity is a token that cannot come.
[[nodiscard]] std::vector<TokenProbability> sampling_distribution(std::span<const double> logits,
                                                                  const SamplingOptions& options);

/// The token whose share of [0, 1), in the order above, holds `u`.
[[nodiscard]] int32_t draw(std::span<const TokenProbability> distribution, double u);

}  // namespace sluice
