#pragma once
// Tokens and slots (kernels/slot_attention.h): tokens read slots, slots are written from tokens.

#include <cstdint>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

struct SlotOptions {
  /// [2 G]: first token of every set and the one behind its last, b_0, e_0, b_1, e_1, ...; they must not
  /// overlap. Must live until the backward has run.
  std::span<const int64_t> ranges;
  double scale = 1.0;
};

/// o[t] = sum_s A[t, s] v[g, s], A[t] = softmax over s of scale <q[t], k[g, s]>, for the tokens t of set
/// g and each head: q [N, H, P], k [G, S, H, P], v [G, S, H, V] -> [N, H, V]; 0 for tokens of no set.
/// Saves the inputs. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor read_slots(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                                const SlotOptions& options);

/// u[g, s] = sum_t A[t, s] v[t] / sum_t A[t, s], A[t] = softmax over s of scale <q[g, s], k[t]>, over the
/// tokens t of set g and for each head: q [G, S, H, P], k [N, H, P], v [N, H, V] -> [G, S, H, V]; 0 for
/// a set without tokens. Saves the inputs and u.
[[nodiscard]] Tensor write_slots(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                                 const SlotOptions& options);

}  // namespace sluice
