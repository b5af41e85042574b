#pragma once
// Which chunks of earlier keys a query attends to, beside those that it sees anyway: the b whose mean
// key goes best with the mean query of its own chunk so far.
//
//   s_p = sum of q over the queries of p's chunk up to p, and over the query heads of a key head
//   chosen(p) = top-b over complete earlier chunks c of <s_p, sum of the keys of c>
//
// Sums rank as means do, since all complete chunks have the same length and a query's factor is the
// same for all chunks. Chunks that all see and chunks inside the window are not candidates. Sums run
// in order of the tokens, and begin anew with every chunk: a token's choice depends on its document
// up to itself only. Ties go to the earlier chunk.
//
// Letters: H query heads, K key heads, P head width, b chunks for each query and key head.

#include <cstdint>

namespace sluice::kernels {

struct ChunkChoice {
  int64_t H;
  int64_t K;
  int64_t P;
  int64_t chunk;   // keys of a chunk, counted from the document's first
  int64_t first;   // chunks at the start that every query sees
  int64_t window;  // tokens a token sees, itself included
  int64_t per_query;
};

/// sums[c, K, P] = sum of the keys of chunk c, for c = begin .. end-1; k [keys, K, P] is one
/// document's. Parallel over chunks.
template <class T>
void sum_key_chunks(const ChunkChoice& choice, int64_t begin, int64_t end, const T* k, T* sums);

/// Consecutive queries of one document.
template <class T>
struct ChunkQueries {
  int64_t queries;
  int64_t position;  // of the first of them
  const T* q;        // [queries, H, P]
  const T* sums;     // [chunks, K, P], all that are complete at the last of them
  int32_t* chosen;   // [queries, K, b]: best first, -1 where there are not so many
  /// [K, P]: the sum over the queries of the first one's chunk before it, read unless it begins one;
  /// then that over the last one's chunk up to it. Null where the first query begins a chunk and
  /// nobody goes on.
  T* carry = nullptr;
};

/// Parallel over chunks of queries.
template <class T>
void choose_key_chunks(const ChunkChoice& choice, const ChunkQueries<T>& args);

}  // namespace sluice::kernels
