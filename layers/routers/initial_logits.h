#pragma once
// Logits of a linear router before it has learned anything, for numbers that depend on them.

#include <cstdint>
#include <span>

#include "autograd/support/function_ref.h"
#include "autograd/support/rng.h"

namespace sluice {

/// Draws of this file's functions: fixed, so that a plan says the same everywhere.
inline constexpr RandomKey kInitialLogitsKey = {42, RandomPurpose::init, 0, 1};

/// Mean of count(z, sample) over 8192 draws of E independent logits z ~ N(0, std^2), or
/// fewer for more than 16 experts (2^17 logits in all, at least 64 draws). `count` may
/// change z; `sample` is below 2^32.
[[nodiscard]] double mean_over_initial_logits(
    int64_t experts, double std, FunctionRef<double(std::span<double>, uint64_t)> count);

/// Replaces logits by their softmax.
void softmax_inplace(std::span<double> logits);

}  // namespace sluice
