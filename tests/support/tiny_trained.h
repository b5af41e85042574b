#pragma once
// A trained model of a few hundred parameters, as a checkpoint gives it back.

#include <string_view>

#include "tests/support/tiny_run.h"

namespace sluice::testing {

/// The checkpoint of a tiny_recipe() run after `steps` steps. Weights start with a standard
/// deviation of 0.2, so that even without a step no two logits are alike.
[[nodiscard]] Checkpoint tiny_checkpoint(std::string_view changes = {}, int64_t steps = 0);

/// The same, built.
[[nodiscard]] TrainedModel tiny_trained(std::string_view changes = {}, int64_t steps = 0);

/// Logits [N, V] of a full forward pass over one document, in evaluation.
[[nodiscard]] std::vector<double> logits_of(TrainedModel& trained,
                                            const std::vector<int32_t>& tokens);
/// The same of the model that `checkpoint` holds, over a document of 30 letters.
[[nodiscard]] std::vector<double> logits_of(const Checkpoint& checkpoint);

}  // namespace sluice::testing
