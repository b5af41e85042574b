#pragma once
// Attention as plain loops over queries and keys.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/causal_attention.h"

namespace sluice::kernels::reference {

/// Has query row i been given the chunk that holds `key`?
inline bool is_in_chunks(const AttentionShape& shape, int64_t key_head, int64_t i, int64_t key) {
  if (shape.chunks == nullptr) return false;
  const auto& [chunk, first, per_query, chosen] = *shape.chunks;
  if (key / chunk < first) return true;
  for (int64_t c = 0; c < per_query; ++c) {
    if (chosen[(i * shape.K + key_head) * per_query + c] == key / chunk) return true;
  }
  return false;
}

/// body(query, key) is called for every allowed pair of a segment, as rows of the arrays.
template <class Body>
void for_each_pair(const AttentionShape& shape, int64_t key_head, const AttentionSegment& s,
                   Body&& body) {
  const int64_t shift = (s.k_end - s.k_begin) - (s.q_end - s.q_begin);
  for (int64_t i = s.q_begin; i < s.q_end; ++i) {
    const int64_t position = i - s.q_begin + shift;
    for (int64_t j = s.k_begin; j < s.k_end; ++j) {
      const int64_t key = j - s.k_begin;
      if (key > position) continue;
      if (position - key < shape.window_of(key_head) || is_in_chunks(shape, key_head, i, key)) {
        body(i, j);
      }
    }
  }
}

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class T>
void causal_attention(const AttentionShape& shape, std::span<const AttentionSegment> segments,
                      const AttentionForward<T>& args) {
  const int64_t H = shape.H, K = shape.K, P = shape.P, V = shape.value_width();
  const int64_t value_stride = args.value_stride == 0 ? K * V : args.value_stride;
  for (const AttentionSegment& segment : segments) {
    for (int64_t h = 0; h < H; ++h) {
      const int64_t kh = shape.key_head_of(h);
      const auto score = [&](int64_t i, int64_t j) {
        return static_cast<T>(shape.scale) *
               dot(args.q + (i * H + h) * P, args.k + (j * K + kh) * P, P);
      };
      for (int64_t i = segment.q_begin; i < segment.q_end; ++i) {
        args.lse[i * H + h] = -std::numeric_limits<T>::infinity();
        std::fill_n(args.o + (i * H + h) * V, V, T{0});
      }
      for_each_pair(shape, kh, segment, [&](int64_t i, int64_t j) {
        T& lse = args.lse[i * H + h];
        const T s = score(i, j);
        lse = std::max(lse, s) + std::log1p(std::exp(-std::abs(lse - s)));
      });
      for_each_pair(shape, kh, segment, [&](int64_t i, int64_t j) {
        const T p = std::exp(score(i, j) - args.lse[i * H + h]);
        for (int64_t c = 0; c < V; ++c) {
          args.o[(i * H + h) * V + c] += p * args.v[j * value_stride + kh * V + c];
        }
      });
    }
  }
}

/// Gradients must accumulate or be zero beforehand.
template <class T>
void causal_attention_backward(const AttentionShape& shape,
                               std::span<const AttentionSegment> segments,
                               const AttentionBackward<T>& args) {
  const int64_t H = shape.H, K = shape.K, P = shape.P, V = shape.value_width();
  const T factor = static_cast<T>(shape.scale);
  for (const AttentionSegment& segment : segments) {
    for (int64_t h = 0; h < H; ++h) {
      const int64_t kh = shape.key_head_of(h);
      for_each_pair(shape, kh, segment, [&](int64_t i, int64_t j) {
        const int64_t at_q = (i * H + h) * P;
        const int64_t at_k = (j * K + kh) * P;
        const int64_t at_o = (i * H + h) * V;
        const int64_t at_v = (j * K + kh) * V;
        const T p = std::exp(factor * dot(args.q + at_q, args.k + at_k, P) - args.lse[i * H + h]);
        const T d = dot(args.grad_o + at_o, args.o + at_o, V);
        const T ds = factor * p * (dot(args.grad_o + at_o, args.v + at_v, V) - d);
        for (int64_t c = 0; c < P; ++c) {
          args.grad_q.data[at_q + c] += ds * args.k[at_k + c];
          args.grad_k.data[at_k + c] += ds * args.q[at_q + c];
        }
        for (int64_t c = 0; c < V; ++c) args.grad_v.data[at_v + c] += p * args.grad_o[at_o + c];
      });
    }
  }
}

}  // namespace sluice::kernels::reference
