#pragma once
// A checkpoint of any recipe's model, without a run.

#include <string>

#include "train/checkpoint/checkpoint.h"

namespace sluice::testing {

/// Every parameter, norms and biases too, holds other numbers, multiples of 1/64 below 2: f16 and
/// bf16 hold them exactly. So do the biases of loss_free_bias. `model` is YAML of the sections model
/// and balance; the tokenizer is that of single bytes.
[[nodiscard]] Checkpoint made_up_checkpoint(const std::string& model);

}  // namespace sluice::testing
