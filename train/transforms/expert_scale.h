#pragma once
// upcycle.calibrate: factors of the routed experts' outputs, measured instead of derived.

#include <string>
#include <vector>

#include "train/evaluate.h"
#include "train/transforms/upcycle.h"

namespace sluice {

/// Layer by layer, in order: the mean length of the layer's output over tokens in job.before, over that in
/// `after`, the new model as it is by then, becomes a factor of the routed experts' "w_down" (LLaMA-MoE,
/// arXiv 2406.16554, measures a factor of the gate's output, which is the same). The tokens are the first
/// upcycle.calibrate of training. Returns one sentence. Throws ConfigError where shared experts would have
/// to be scaled too, or experts have no "w_down".
std::vector<std::string> fit_expert_scale(const UpcycleJob& job, const EvaluationParts& after,
                                          const Progress& progress);

}  // namespace sluice
