#pragma once
// Mamba-2's state-space recurrence in chunks.

#include <cstdint>
#include <limits>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

struct SsdOptions {
  int64_t num_groups = 1;
  int64_t state_size = 128;
  int64_t chunk_size = 64;  // changes speed and rounding only
  /// Limits of the step size.
  double dt_min = 0.0;
  double dt_max = std::numeric_limits<double>::infinity();
};

/// The tensors of a scan. Letters: T tokens, H heads, P head width, G groups, N state size.
struct SsdInputs {
  Tensor xbc;      // [T, H P + 2 G N]: x, B and C side by side
  Tensor dt;       // [T, H]
  Tensor dt_bias;  // [H]
  Tensor A_log;    // [H]
  Tensor D;        // [H]
};

/// Per head h, with d = clamp(softplus(dt + dt_bias), dt_min, dt_max):
///   S_t = e^(-d_t e^A_log) S_(t-1) + d_t x_t (x) B_t,   y_t = S_t C_t + D x_t
/// S is [P, N] and starts at 0 in each of the document pieces `document_offsets` [G + 1], which must
/// live until the backward has run; B and C are those of group h / (H / G). -> [T, H P]. Saves xbc,
/// A_log, D, d [T, H] and the state that enters each chunk but a document's first, [.., H, P, N].
/// Throws ShapeError, DTypeError.
[[nodiscard]] Tensor ssd_scan(Tape& tape, const SsdInputs& in,
                              std::span<const int64_t> document_offsets, const SsdOptions& options);

/// Decoding: the next tokens of one document, from the state [H, P, N] that the tokens before left
/// (zeros in front of the first), which is brought up to date in place. Equals the rows of the full
/// pass within rounding. Not recorded.
[[nodiscard]] Tensor ssd_scan_step(Tape& tape, const SsdInputs& in, const SsdOptions& options,
                                   Tensor& state);

}  // namespace sluice
