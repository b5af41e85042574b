#pragma once
// Stick-breaking attention as plain loops: the product of what is left, key by key.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/reference/causal_attention.h"
#include "autograd/kernels/stick_breaking_attention.h"

namespace sluice::kernels::reference {

/// A row of weights: keys [first, last] of the arrays, of which the query is the token of the last.
template <class T>
struct StickRow {
  StickRow(const AttentionShape& shape, int64_t i, int64_t head, int64_t first_, int64_t last,
           const T* q, const T* k)
      : first(first_) {
    const int64_t P = shape.P;
    T left = 1;
    weight.resize(static_cast<size_t>(last - first + 1));
    share.resize(weight.size());
    for (int64_t j = last; j >= first; --j) {
      const auto at = static_cast<size_t>(j - first);
      const T z =
          static_cast<T>(shape.scale) *
          dot(q + (i * shape.H + head) * P, k + (j * shape.K + shape.key_head_of(head)) * P, P);
      share[at] = 1 / (1 + std::exp(-z));
      weight[at] = share[at] * left;
      left *= 1 - share[at];
    }
  }
  int64_t first;
  std::vector<T> weight;  // A
  std::vector<T> share;   // sigmoid(z)
};

/// body(query row, head, key head, weights) for every query.
template <class T, class Body>
void for_each_stick(const AttentionShape& shape, std::span<const AttentionSegment> segments,
                    const T* q, const T* k, Body&& body) {
  for (const AttentionSegment& s : segments) {
    for (int64_t i = s.q_begin; i < s.q_end; ++i) {
      for (int64_t h = 0; h < shape.H; ++h) {
        const int64_t last = s.k_end - (s.q_end - i);
        body(i, h, shape.key_head_of(h), StickRow<T>(shape, i, h, s.k_begin, last, q, k));
      }
    }
  }
}

template <class T>
void stick_breaking_attention(const AttentionShape& shape,
                              std::span<const AttentionSegment> segments,
                              const AttentionForward<T>& args) {
  const int64_t V = shape.value_width();
  for_each_stick<T>(shape, segments, args.q, args.k,
                    [&](int64_t i, int64_t h, int64_t kh, const StickRow<T>& row) {
                      T* o = args.o + (i * shape.H + h) * V;
                      std::fill_n(o, V, T{0});
                      for (size_t at = 0; at < row.weight.size(); ++at) {
                        const int64_t j = row.first + static_cast<int64_t>(at);
                        for (int64_t c = 0; c < V; ++c) {
                          o[c] += row.weight[at] * args.v[(j * shape.K + kh) * V + c];
                        }
                      }
                    });
}

/// Gradients must accumulate or be zero beforehand.
template <class T>
void stick_breaking_attention_backward(const AttentionShape& shape,
                                       std::span<const AttentionSegment> segments,
                                       const AttentionBackward<T>& args) {
  const int64_t P = shape.P;
  const int64_t V = shape.value_width();
  const T scale = static_cast<T>(shape.scale);
  for_each_stick<T>(shape, segments, args.q, args.k,
                    [&](int64_t i, int64_t h, int64_t kh, const StickRow<T>& row) {
                      const int64_t at_q = (i * shape.H + h) * P;
                      const int64_t at_o = (i * shape.H + h) * V;
                      T older = 0;  // sum of E over the keys before j
                      for (size_t at = 0; at < row.weight.size(); ++at) {
                        const int64_t j = row.first + static_cast<int64_t>(at);
                        const int64_t at_k = (j * shape.K + kh) * P;
                        const int64_t at_v = (j * shape.K + kh) * V;
                        const T e = row.weight[at] * dot(args.grad_o + at_o, args.v + at_v, V);
                        const T dz = scale * (e * (1 - row.share[at]) - row.share[at] * older);
                        older += e;
                        for (int64_t c = 0; c < P; ++c) {
                          args.grad_q.data[at_q + c] += dz * args.k[at_k + c];
                          args.grad_k.data[at_k + c] += dz * args.q[at_q + c];
                        }
                        for (int64_t c = 0; c < V; ++c) {
                          args.grad_v.data[at_v + c] += row.weight[at] * args.grad_o[at_o + c];
                        }
                      }
                    });
}

}  // namespace sluice::kernels::reference
