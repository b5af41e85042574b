#pragma once
// The choice of chunks as plain loops: every candidate's score, sorted.

#include <algorithm>
#include <vector>

#include "autograd/kernels/key_chunks.h"
#include "autograd/kernels/reference/causal_attention.h"

namespace sluice::kernels::reference {

/// One document: q [T, H, P], k [T, K, P] -> chosen [T, K, b].
template <class T>
void choose_key_chunks(const ChunkChoice& choice, int64_t tokens, const T* q, const T* k,
                       int32_t* chosen) {
  const auto& [H, K, P, chunk, first, window, b] = choice;
  for (int64_t p = 0; p < tokens; ++p) {
    for (int64_t head = 0; head < K; ++head, chosen += b) {
      std::vector<T> query(static_cast<size_t>(P), T{0});
      for (int64_t i = p / chunk * chunk; i <= p; ++i) {
        for (int64_t h = head * (H / K); h < (head + 1) * (H / K); ++h) {
          for (int64_t c = 0; c < P; ++c) query[static_cast<size_t>(c)] += q[(i * H + h) * P + c];
        }
      }
      std::vector<std::pair<T, int64_t>> candidates;
      for (int64_t c = first; (c + 1) * chunk <= p; ++c) {
        if (c * chunk > p - window) continue;
        std::vector<T> key(static_cast<size_t>(P), T{0});
        for (int64_t j = c * chunk; j < (c + 1) * chunk; ++j) {
          for (int64_t i = 0; i < P; ++i) key[static_cast<size_t>(i)] += k[(j * K + head) * P + i];
        }
        candidates.emplace_back(-dot(query.data(), key.data(), P), c);
      }
      std::sort(candidates.begin(), candidates.end());
      for (int64_t i = 0; i < b; ++i) {
        const auto at = static_cast<size_t>(i);
        chosen[i] = at < candidates.size() ? static_cast<int32_t>(candidates[at].second) : -1;
      }
    }
  }
}

}  // namespace sluice::kernels::reference
