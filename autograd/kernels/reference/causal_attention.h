#pragma once
// Attention as plain loops over queries and keys.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/causal_attention.h"

namespace sluice::kernels::reference {

/// body(query, key) is called for every allowed pair of a segment, as rows of the arrays.
template <class Body>
void for_each_pair(const AttentionShape& shape, const AttentionSegment& s, Body&& body) {
  const int64_t shift = (s.k_end - s.k_begin) - (s.q_end - s.q_begin);
  for (int64_t i = s.q_begin; i < s.q_end; ++i) {
    const int64_t position = i - s.q_begin + shift;
    for (int64_t j = s.k_begin; j < s.k_end; ++j) {
      const int64_t key = j - s.k_begin;
      if (key <= position && position - key < shape.window) body(i, j);
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
  const auto& [H, K, P, scale, window] = shape;
  for (const AttentionSegment& segment : segments) {
    for (int64_t h = 0; h < H; ++h) {
      const int64_t kh = h / (H / K);
      const auto score = [&](int64_t i, int64_t j) {
        return static_cast<T>(scale) * dot(args.q + (i * H + h) * P, args.k + (j * K + kh) * P, P);
      };
      for (int64_t i = segment.q_begin; i < segment.q_end; ++i) {
        args.lse[i * H + h] = -std::numeric_limits<T>::infinity();
        std::fill_n(args.o + (i * H + h) * P, P, T{0});
      }
      for_each_pair(shape, segment, [&](int64_t i, int64_t j) {
        T& lse = args.lse[i * H + h];
        const T s = score(i, j);
        lse = std::max(lse, s) + std::log1p(std::exp(-std::abs(lse - s)));
      });
      for_each_pair(shape, segment, [&](int64_t i, int64_t j) {
        const T p = std::exp(score(i, j) - args.lse[i * H + h]);
        for (int64_t c = 0; c < P; ++c)
          args.o[(i * H + h) * P + c] += p * args.v[(j * K + kh) * P + c];
      });
    }
  }
}

/// Gradients must accumulate or be zero beforehand.
template <class T>
void causal_attention_backward(const AttentionShape& shape,
                               std::span<const AttentionSegment> segments,
                               const AttentionBackward<T>& args) {
  const auto& [H, K, P, scale, window] = shape;
  const T factor = static_cast<T>(scale);
  for (const AttentionSegment& segment : segments) {
    for (int64_t h = 0; h < H; ++h) {
      const int64_t kh = h / (H / K);
      for_each_pair(shape, segment, [&](int64_t i, int64_t j) {
        const int64_t at_q = (i * H + h) * P;
        const int64_t at_k = (j * K + kh) * P;
        const T p = std::exp(factor * dot(args.q + at_q, args.k + at_k, P) - args.lse[i * H + h]);
        const T d = dot(args.grad_o + at_q, args.o + at_q, P);
        const T ds = factor * p * (dot(args.grad_o + at_q, args.v + at_k, P) - d);
        for (int64_t c = 0; c < P; ++c) {
          args.grad_q.data[at_q + c] += ds * args.k[at_k + c];
          args.grad_k.data[at_k + c] += ds * args.q[at_q + c];
          args.grad_v.data[at_k + c] += p * args.grad_o[at_q + c];
        }
      });
    }
  }
}

}  // namespace sluice::kernels::reference
