#pragma once
// Where documents and sequences lie in the ragged token axis [N] of a micro-batch.

#include <cstdint>
#include <vector>

#include "autograd/core/tensor.h"

namespace sluice {

/// N = tokens, S = sequences, G = document pieces. Every token is real: padding never becomes a
/// token.
struct SequenceLayout {
  /// [S + 1]; sequence s holds tokens sequence_offsets[s] .. sequence_offsets[s + 1] - 1.
  std::vector<int64_t> sequence_offsets;
  /// [G + 1]; a piece never crosses a sequence; attention and positions stay inside a piece.
  std::vector<int64_t> document_offsets;
  /// [N] i32: position inside the document piece, from 0 (from the cache's length when decoding).
  Tensor positions;
  /// [S]: number of the sequence in the run; the key of all randomness, so that no split into
  /// micro-batches changes it.
  std::vector<uint64_t> global_samples;
  /// [N]: 1 where the token has a loss. Only these count in loads and balancing losses.
  std::vector<uint8_t> counted;
  /// [G]: index of the document's domain.
  std::vector<int32_t> document_domains;
  /// How often the same text is in the batch: its sequences come in this many equal runs, one for
  /// each pass, that differ in their global samples only.
  int64_t passes = 1;

  /// The pass that sequence s belongs to.
  [[nodiscard]] int64_t pass_of(int64_t s) const { return s / (sequences() / passes); }

  [[nodiscard]] int64_t tokens() const {
    return sequence_offsets.empty() ? 0 : sequence_offsets.back();
  }
  [[nodiscard]] int64_t sequences() const {
    return sequence_offsets.empty() ? 0 : static_cast<int64_t>(sequence_offsets.size()) - 1;
  }
  [[nodiscard]] int64_t documents() const {
    return document_offsets.empty() ? 0 : static_cast<int64_t>(document_offsets.size()) - 1;
  }
  [[nodiscard]] int64_t counted_tokens() const;

  /// One document of `length` tokens at positions first .. first + length - 1, all counted
  /// (decoding, tests).
  [[nodiscard]] static SequenceLayout single(Pool& pool, int64_t length,
                                             int64_t first_position = 0);
};

}  // namespace sluice
