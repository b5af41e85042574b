#pragma once
// Which chunks of earlier keys each query attends to (kernels/key_chunks.h). A choice: no gradients,
// and nothing is recorded; the same queries and keys give it again.

#include <cstdint>
#include <optional>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

struct KeyChunkOptions {
  int64_t chunk;      // keys of a chunk, from a document's first on
  int64_t first;      // chunks at the start of a document that every query sees
  int64_t window;     // tokens a token sees, itself included
  int64_t per_query;  // b
};

/// q [N, H, P], k [N, K, P], H a multiple of K, documents [G + 1] -> [N, K, b] i32, as
/// AttentionChunks::chosen. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor choose_key_chunks(Tape& tape, const Tensor& q, const Tensor& k,
                                       std::span<const int64_t> document_offsets,
                                       const KeyChunkOptions& options);

/// What decoding keeps beside the keys of one document.
struct KeyChunkMemory {
  Tensor sums;   // [chunks, K, P], of complete chunks
  Tensor carry;  // [K, P]
};
/// For at most `capacity` tokens.
[[nodiscard]] KeyChunkMemory key_chunk_memory(Pool& pool, DType dtype, int64_t capacity,
                                              int64_t key_heads, int64_t head_dim,
                                              const KeyChunkOptions& options);
/// The same of the last n tokens of a document, q [n, H, P], of whose keys [C, K, P] the first
/// `length` are there; brings the memory up to date with them.
[[nodiscard]] Tensor choose_key_chunks(Tape& tape, const Tensor& q, const Tensor& k, int64_t length,
                                       KeyChunkMemory& memory, const KeyChunkOptions& options);

}  // namespace sluice
