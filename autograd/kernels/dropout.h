#pragma once
// Random factors for every element of a [rows, cols] array, each a pure function of (key, sequence,
// position, column): neither micro-batches nor threads nor recomputation change one, and nothing is
// saved for a backward.

#include <cstdint>

#include "autograd/kernels/gradient.h"
#include "autograd/support/rng.h"

namespace sluice::kernels {

/// Which numbers a row gets: row n is position n - sequence_offsets[s] of sequence s, whose stream
/// is samples[s]. There are sequence_offsets[sequences] rows.
struct RowStreams {
  RandomKey key;
  int64_t sequences;
  const int64_t* sequence_offsets;  // [sequences + 1]
  const uint64_t* samples;          // [sequences]
};

/// y = x / (1 - probability) where the element is kept, else 0: dropout (Srivastava et al. 2014) in
/// its inverted form. The same map takes grad_y to grad_x. Kept to 2^-32: an element's 32 random
/// bits reach probability * 2^32. Elements 4 c .. 4 c + 3 of a row share the draw of index position
/// * ceil(cols / 4) + c.
template <class T>
void dropout(int64_t cols, const RowStreams& streams, double probability, const T* x,
             const Gradient<T>& y);

/// y = x u with u uniform in [1 - epsilon, 1 + epsilon): router input jitter (Fedus et al. 2022,
/// "Switch transformers"). The same map takes grad_y to grad_x. Draws are shared as in dropout.
template <class T>
void jitter(int64_t cols, const RowStreams& streams, double epsilon, const T* x,
            const Gradient<T>& y);

/// y [rows, cols]: standard normal, element (position, col) from the draw of index position * cols
/// + col.
template <class T>
void normal_noise(int64_t cols, const RowStreams& streams, T* y);

}  // namespace sluice::kernels
