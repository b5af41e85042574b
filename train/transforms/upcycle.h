#pragma once
// Carrying out the `upcycle` section of a recipe: the state that a run of experts starts with.
//
//   const Checkpoint dense = read_checkpoint(config.from);
//   StateDict state = ...;                                  // of the new run, with its initial values
//   const std::vector<std::string> notes = upcycle_state(dense, recipe, state);

#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"
#include "train/recipe.h"

namespace sluice {

/// Overwrites `state`, the state of a new run of `recipe`, by what the dense checkpoint and the recipe's
/// scheme make of it; what no rule speaks of (routers, balancers) stays. Returns one sentence for each
/// choice that was made and each reason why the new model is not the dense one. Throws ConfigError when
/// the recipe's model is not the dense one with experts for feed-forwards, CheckpointError when an array
/// is missing or has another shape.
std::vector<std::string> upcycle_state(const Checkpoint& dense, const Recipe& recipe,
                                       StateDict& state);

/// Factor of the routed experts' outputs that keeps the dense function, or its mean (upcycling.h).
/// `parts` is n / f. Throws ConfigError for a router whose combine weights are not known beforehand.
[[nodiscard]] double upcycling_scale(const Tagged& router, int64_t num_experts, int64_t top_k,
                                     double parts);

}  // namespace sluice
