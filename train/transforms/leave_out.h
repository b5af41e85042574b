#pragma once
// A model without some of its experts: what is left of it has nothing of theirs.
//
//   Checkpoint rest = leave_out_experts(read_checkpoint(file), file, {2, 5});

#include <cstdint>
#include <string>
#include <vector>

#include "train/checkpoint/checkpoint.h"

namespace sluice {

/// The model and the balancers' state of `checkpoint` without the experts of these numbers, in every
/// layer of experts; the others move up. A router's softmax is then over those that are there. top_k
/// becomes the number of experts where that is less. With softmax weights that are renormalised, a token
/// of which the left-out experts were no choice keeps its output. Optimizer, data and run state are left
/// out. Throws ConfigError when the model has no such experts, none of its own yet, or none would be left;
/// `name` (its file) stands in messages.
[[nodiscard]] Checkpoint leave_out_experts(const Checkpoint& checkpoint, const std::string& name,
                                           const std::vector<int64_t>& experts);

/// "2,5" or "1-3,6". Throws ConfigError.
[[nodiscard]] std::vector<int64_t> parse_expert_list(const std::string& text);

}  // namespace sluice
