#pragma once
// How many experts a token uses in training, as far as it is known before the run: what `plan`
// says and the log measures (load/experts_per_token).

#include <algorithm>
#include <cstdint>

#include "autograd/support/scheduled.h"

namespace sluice {

/// When, and of which layer, the number is asked for.
struct ActiveExpertsQuery {
  int64_t num_experts;
  int64_t top_k;  // at `progress`
  Progress progress;
  /// Standard deviation of the logits of a linear router at its initial values: a row of W is
  /// N(0, std^2) and a normalised input has a mean square of 1, so a logit is N(0, std^2 D).
  double initial_logit_std;
};

/// Assignments per token that experts compute, mean over tokens.
struct ActiveExperts {
  enum class Known : uint8_t {
    exactly,            // least = expected = greatest
    at_initial_values,  // expected over the router's initial values (weights, tables) and its noise;
                        // training moves it within the bounds
    within_bounds       // the data decides: expected is `greatest`
  };
  Known known = Known::exactly;
  double expected = 0.0;
  double least = 0.0;  // whatever the router has learned
  double greatest = 0.0;

  [[nodiscard]] static ActiveExperts exactly(double count) {
    return {Known::exactly, count, count, count};
  }
  [[nodiscard]] static ActiveExperts at_initial_values(double expected, double least,
                                                       double greatest) {
    if (least == greatest) return exactly(least);
    return {Known::at_initial_values, std::clamp(expected, least, greatest), least, greatest};
  }
  [[nodiscard]] static ActiveExperts within_bounds(double least, double greatest) {
    if (least == greatest) return exactly(least);
    return {Known::within_bounds, greatest, least, greatest};
  }
  friend bool operator==(const ActiveExperts&, const ActiveExperts&) = default;
};

}  // namespace sluice
