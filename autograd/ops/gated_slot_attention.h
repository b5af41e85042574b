#pragma once
// Gated slot attention (kernels/gated_slot_attention.h has the equations and the backward).

#include <cstdint>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

/// Per head: q and k [N, H, P], v [N, H, V], log_gate [N, H, M], below 0.
struct GatedSlotTokens {
  Tensor q;
  Tensor k;
  Tensor v;
  Tensor log_gate;
};

/// o_t = V_t^T softmax(scale K_t q_t), where slot m of the memories keeps a = e^log_gate of what it holds
/// and takes 1 - a of the token's k and v -> [N, H, V]. Token ranges `offsets` [G + 1] have memories of
/// their own, empty at their start; they must live until the backward has run. Saves the inputs and the
/// memories at every 32nd token of a range. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor gated_slot_attention(Tape& tape, const GatedSlotTokens& tokens,
                                          std::span<const int64_t> offsets, double scale);

/// Decoding: the next n tokens of one sequence, whose `memory` [H, M, P + V] they read and change. Never
/// records.
[[nodiscard]] Tensor advance_gated_slot_attention(Tape& tape, const GatedSlotTokens& tokens,
                                                  double scale, const Tensor& memory);

}  // namespace sluice
