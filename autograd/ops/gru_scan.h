#pragma once
// Gated recurrent units, one per expert (kernels/gru_scan.h has the equations).

#include <cstdint>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

struct GruTensors {
  Tensor a;        // [R, 3 P]: the inputs' projections to r, u and c
  Tensor weight;   // [E, 3 P, P]
  Tensor bias;     // [E, 4 P]: b_r, b_u, b_c and, inside the reset gate, b_h
  Tensor offsets;  // [E + 1] i32: expert e has rows offsets[e] .. offsets[e + 1] - 1
};

/// The state after every row, h [R, P]. `segments` [G + 1], from 0 to R, none across two experts: rows
/// that have a state of their own, 0 at their start; must live until the backward has run. Saves a,
/// weight, bias, h and four gates per row. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor gru_scan(Tape& tape, const GruTensors& in, std::span<const int64_t> segments);

/// Decoding: the next rows of one sequence, from state [E, P], which moves on. Never records.
[[nodiscard]] Tensor gru_step(Tape& tape, const GruTensors& in, Tensor& state);

}  // namespace sluice
