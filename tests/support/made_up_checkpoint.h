#pragma once
// A checkpoint of any recipe's model, without a run.

#include <string>

#include "train/checkpoint/checkpoint.h"
#include "train/interchange/stored_type.h"

namespace sluice::testing {

/// Every parameter, norms and biases too, holds other numbers, multiples of 1/64 below 2: f16 and
/// bf16 hold them exactly. So do the biases of loss_free_bias. `model` is YAML of the sections model
/// and balance; the tokenizer is that of single bytes.
[[nodiscard]] Checkpoint made_up_checkpoint(const std::string& model);

/// Fills the parameters with numbers of a type, f32, f16 or bf16, that need all of its bits: every
/// pattern is as likely as another, and each array of more than a few elements begins with both
/// infinities, NaNs with payloads (a signalling one too), -0 and the least and greatest numbers. The
/// biases of loss_free_bias get any f32 numbers.
void fill_with_bits(Checkpoint& checkpoint, StoredType type);

/// Replaces the tokenizer by a SentencePiece model of byte pairs, with 280 pieces.
void give_pieces(Checkpoint& checkpoint);

/// What other programs' files hold of a checkpoint: the parameters, and the biases of loss_free_bias.
[[nodiscard]] StateDict model_state(const Checkpoint& checkpoint);

}  // namespace sluice::testing
