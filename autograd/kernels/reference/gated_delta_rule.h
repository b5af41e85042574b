#pragma once
// The memory's recurrence token by token, and its backward, as plain loops.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/gated_delta_rule.h"

namespace sluice::kernels::reference {

/// What one token of one head reads.
template <class T>
struct MemoryToken {
  template <class Args>
  MemoryToken(const MemoryShape& shape, const Args& args, int64_t t, int64_t h)
      : at(t * shape.H + h),
        q(args.q + at * shape.K),
        k(args.k + at * shape.K),
        decay(args.log_decay == nullptr ? T{1} : std::exp(args.log_decay[at])),
        beta(args.beta == nullptr ? T{1} : args.beta[at]) {}
  int64_t at;  // among tokens and heads
  const T* q;
  const T* k;
  T decay;
  T beta;
};

template <class T>
void gated_delta_rule(const MemoryShape& shape, std::span<const MemorySegment> segments,
                      const MemoryForward<T>& args) {
  const auto [rule, H, K, V, scale, chunk] = shape;
  for (size_t s = 0; s < segments.size(); ++s) {
    for (int64_t h = 0; h < H; ++h) {
      const auto first = (static_cast<int64_t>(s) * H + h) * K * V;
      std::vector<T> memory(static_cast<size_t>(K * V));
      if (args.initial != nullptr) std::copy_n(args.initial + first, K * V, memory.data());
      for (int64_t t = segments[s].begin; t < segments[s].end; ++t) {
        const MemoryToken<T> token(shape, args, t, h);
        for (T& element : memory) element *= token.decay;
        for (int64_t j = 0; j < V; ++j) {
          T e = args.v[token.at * V + j];
          if (rule == MemoryRule::delta) {
            for (int64_t i = 0; i < K; ++i)
              e -= memory[static_cast<size_t>(i * V + j)] * token.k[i];
          }
          if (args.written != nullptr) args.written[token.at * V + j] = e;
          T o = 0;
          for (int64_t i = 0; i < K; ++i) {
            T& element = memory[static_cast<size_t>(i * V + j)];
            element += token.beta * token.k[i] * e;
            o += element * token.q[i];
          }
          args.o[token.at * V + j] = static_cast<T>(scale) * o;
        }
      }
      if (args.final != nullptr) std::copy_n(memory.data(), K * V, args.final + first);
    }
  }
}

/// The page's backward: the memory before every token is kept, its gradient carried back.
/// Gradients must accumulate or be zero beforehand; all of them are wanted. `v` is the forward's.
template <class T>
void gated_delta_rule_backward(const MemoryShape& shape, std::span<const MemorySegment> segments,
                               const MemoryBackward<T>& args, const T* v) {
  const auto [rule, H, K, V, scale, chunk] = shape;
  const auto size = static_cast<size_t>(K * V);
  for (const MemorySegment& segment : segments) {
    for (int64_t h = 0; h < H; ++h) {
      // Decayed memories before each token wrote, and what it wrote.
      std::vector<std::vector<T>> before;
      std::vector<std::vector<T>> written;
      std::vector<T> memory(size);
      for (int64_t t = segment.begin; t < segment.end; ++t) {
        const MemoryToken<T> token(shape, args, t, h);
        for (T& element : memory) element *= token.decay;
        before.push_back(memory);
        std::vector<T> e(v + token.at * V, v + (token.at + 1) * V);
        for (int64_t i = 0; i < K && rule == MemoryRule::delta; ++i) {
          for (int64_t j = 0; j < V; ++j) {
            e[static_cast<size_t>(j)] -= before.back()[static_cast<size_t>(i * V + j)] * token.k[i];
          }
        }
        for (int64_t i = 0; i < K; ++i) {
          for (int64_t j = 0; j < V; ++j) {
            memory[static_cast<size_t>(i * V + j)] +=
                token.beta * token.k[i] * e[static_cast<size_t>(j)];
          }
        }
        written.push_back(e);
      }
      std::vector<T> grad(size);
      for (int64_t t = segment.end - 1; t >= segment.begin; --t) {
        const MemoryToken<T> token(shape, args, t, h);
        const auto& held = before[static_cast<size_t>(t - segment.begin)];
        const auto& e = written[static_cast<size_t>(t - segment.begin)];
        const T* grad_o = args.grad_o + token.at * V;
        std::vector<T> w(static_cast<size_t>(V));
        for (int64_t i = 0; i < K; ++i) {
          for (int64_t j = 0; j < V; ++j) {
            const auto at = static_cast<size_t>(i * V + j);
            const T after = held[at] + token.beta * token.k[i] * e[static_cast<size_t>(j)];
            args.grad_q.data[token.at * K + i] += static_cast<T>(scale) * after * grad_o[j];
            grad[at] += static_cast<T>(scale) * token.q[i] * grad_o[j];
            w[static_cast<size_t>(j)] += grad[at] * token.k[i];
          }
        }
        for (int64_t j = 0; j < V; ++j) {
          const T grad_e = token.beta * w[static_cast<size_t>(j)];
          args.grad_beta.data[token.at] += w[static_cast<size_t>(j)] * e[static_cast<size_t>(j)];
          args.grad_v.data[token.at * V + j] += grad_e;
          for (int64_t i = 0; i < K; ++i) {
            const auto at = static_cast<size_t>(i * V + j);
            args.grad_k.data[token.at * K + i] += token.beta * grad[at] * e[static_cast<size_t>(j)];
            if (rule == MemoryRule::sum) continue;
            args.grad_k.data[token.at * K + i] -= held[at] * grad_e;
            grad[at] -= token.k[i] * grad_e;
          }
        }
        for (size_t at = 0; at < size; ++at) {
          args.grad_log_decay.data[token.at] += grad[at] * held[at];
          grad[at] *= token.decay;
        }
      }
    }
  }
}

}  // namespace sluice::kernels::reference
