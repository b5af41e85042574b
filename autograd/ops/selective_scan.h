#pragma once
// Mamba's selective state-space recurrence.

#include <cstdint>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

/// The tensors of a scan. Letters: T tokens, E channels, N state size.
struct SelectiveScanInputs {
  Tensor u;        // [T, E]
  Tensor dt;       // [T, E]
  Tensor dt_bias;  // [E]
  Tensor A_log;    // [E, N]
  Tensor B;        // [T, N]
  Tensor C;        // [T, N]
  Tensor D;        // [E]
};

/// Per channel, with d = softplus(dt + dt_bias):
///   h_t[n] = e^(-d_t e^A_log[n]) h_(t-1)[n] + d_t B_t[n] u_t,   y_t = sum_n C_t[n] h_t[n] + D u_t
/// h starts at 0 in each of the document pieces `document_offsets` [G + 1], which must live until the
/// backward has run. -> [T, E]. Saves the inputs and the state [.., N, E] at every 64th token of a
/// document. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor selective_scan(Tape& tape, const SelectiveScanInputs& in,
                                    std::span<const int64_t> document_offsets);

/// Decoding: the next tokens of one document, from the state [N, E] that the tokens before left
/// (zeros in front of the first), which is brought up to date in place. Equals the rows of the full
/// pass bit for bit. Not recorded.
[[nodiscard]] Tensor selective_scan_step(Tape& tape, const SelectiveScanInputs& in, Tensor& state);

}  // namespace sluice
