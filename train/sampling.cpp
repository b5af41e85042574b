#include "train/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/support/error.h"

namespace sluice {
namespace {

void check_logits(std::span<const double> logits) {
  SLUICE_INTERNAL_CHECK(!logits.empty(), "a draw from no token");
  bool has_token = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    SLUICE_CHECK(
        NumericError, !std::isnan(logits[i]) && logits[i] < std::numeric_limits<double>::infinity(),
        "the model gave token {} the logit {}; its weights are damaged or diverged", i, logits[i]);
    has_token = has_token || std::isfinite(logits[i]);
  }
  SLUICE_CHECK(NumericError, has_token, "the model gave every token the logit -inf");
}

/// The `count` likeliest tokens, likeliest first.
std::vector<TokenProbability> likeliest(std::span<const double> logits, size_t count) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(count), order.end(),
                    [&](int32_t a, int32_t b) {
                      const double x = logits[static_cast<size_t>(a)];
                      const double y = logits[static_cast<size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  std::vector<TokenProbability> result;
  for (size_t i = 0; i < count; ++i) {
    result.push_back({order[i], logits[static_cast<size_t>(order[i])]});
  }
  return result;
}

void normalise(std::vector<TokenProbability>& tokens) {
  double total = 0.0;
  for (const TokenProbability& token : tokens) total += token.probability;
  for (TokenProbability& token : tokens) token.probability /= total;
}

/// Keeps the shortest beginning whose probabilities reach `top_p`.
void keep_nucleus(std::vector<TokenProbability>& tokens, double top_p) {
  double sum = 0.0;
  size_t kept = 0;
  while (kept < tokens.size() && (kept == 0 || sum < top_p)) sum += tokens[kept++].probability;
  tokens.resize(kept);
}

}  // namespace

void SamplingOptions::check() const {
  SLUICE_CHECK(ConfigError, std::isfinite(temperature) && temperature >= 0.0,
               "--temperature: found {}, allowed a number from 0 (the likeliest token) upwards",
               temperature);
  SLUICE_CHECK(ConfigError, !top_k || *top_k >= 1, "--top-k: found {}, allowed 1 or more", *top_k);
  SLUICE_CHECK(ConfigError, top_p > 0.0 && top_p <= 1.0,
               "--top-p: found {}, allowed a number above 0, at most 1", top_p);
}

std::vector<TokenProbability> sampling_distribution(std::span<const double> logits,
                                                    const SamplingOptions& options) {
  check_logits(logits);
  const auto vocabulary = static_cast<int64_t>(logits.size());
  const int64_t top_k =
      options.temperature == 0.0 ? 1 : std::min(options.top_k.value_or(vocabulary), vocabulary);
  auto tokens = likeliest(logits, static_cast<size_t>(top_k));
  if (top_k == 1) return {{tokens[0].token, 1.0}};
  // Relative to the largest logit, so that no exponential overflows.
  const double largest = tokens[0].probability;
  for (TokenProbability& token : tokens) {
    token.probability = std::exp((token.probability - largest) / options.temperature);
  }
  normalise(tokens);
  if (options.top_p < 1.0) {
    keep_nucleus(tokens, options.top_p);
    normalise(tokens);
  }
  return tokens;
}

int32_t draw(std::span<const TokenProbability> distribution, double u) {
  double sum = 0.0;
  for (const TokenProbability& token : distribution) {
    sum += token.probability;
    if (u < sum) return token.token;
  }
  // Rounding may leave the sum a little below 1: what is missing is the last possible token's.
  auto last = distribution.rbegin();
  while (last->probability == 0.0 && std::next(last) != distribution.rend()) ++last;
  return last->token;
}

}  // namespace sluice
