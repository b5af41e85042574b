#pragma once
// Gated slot attention as plain loops: every memory of every token is kept.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/gated_slot_attention.h"

namespace sluice::kernels::reference {

/// One head of one sequence, walked forwards.
template <class T>
struct GatedSlotWalk {
  template <class Args>
  GatedSlotWalk(const GatedSlotShape& shape, const GatedSlotSequence& sequence_, int64_t head_,
                const Args& args)
      : s(shape), sequence(sequence_), head(head_) {
    keys.assign(1, std::vector<T>(static_cast<size_t>(s.M * s.P), T{0}));
    values.assign(1, std::vector<T>(static_cast<size_t>(s.M * s.V), T{0}));
    for (int64_t t = sequence.begin; t < sequence.end; ++t) {
      keys.push_back(keys.back());
      values.push_back(values.back());
      std::vector<T> p;
      T sum = 0;
      for (int64_t m = 0; m < s.M; ++m) {
        const T a = gate(args.log_gate, t, m);
        T score = 0;
        for (int64_t c = 0; c < s.P; ++c) {
          T& k = keys.back()[static_cast<size_t>(m * s.P + c)];
          k = a * k + (1 - a) * args.k[row(t) * s.P + c];
          score += k * args.q[row(t) * s.P + c];
        }
        for (int64_t c = 0; c < s.V; ++c) {
          T& v = values.back()[static_cast<size_t>(m * s.V + c)];
          v = a * v + (1 - a) * args.v[row(t) * s.V + c];
        }
        p.push_back(std::exp(static_cast<T>(s.scale) * score));
        sum += p.back();
      }
      for (T& weight : p) weight /= sum;
      weights.push_back(p);
    }
  }
  [[nodiscard]] int64_t row(int64_t t) const { return t * s.H + head; }
  [[nodiscard]] T gate(const T* log_gate, int64_t t, int64_t m) const {
    return std::exp(log_gate[row(t) * s.M + m]);
  }
  GatedSlotShape s;
  GatedSlotSequence sequence;
  int64_t head;
  std::vector<std::vector<T>> keys;     // before the first token, and after each: [M, P]
  std::vector<std::vector<T>> values;   // the same, [M, V]
  std::vector<std::vector<T>> weights;  // p of each token [M]
};

/// From empty memories; saves nothing.
template <class T>
void gated_slot_attention(const GatedSlotShape& s, std::span<const GatedSlotSequence> sequences,
                          const GatedSlotForward<T>& args) {
  for (const GatedSlotSequence& sequence : sequences) {
    for (int64_t h = 0; h < s.H; ++h) {
      const GatedSlotWalk<T> walk(s, sequence, h, args);
      for (int64_t t = sequence.begin; t < sequence.end; ++t) {
        const auto i = static_cast<size_t>(t - sequence.begin);
        for (int64_t c = 0; c < s.V; ++c) {
          T& o = args.o[walk.row(t) * s.V + c];
          o = 0;
          for (int64_t m = 0; m < s.M; ++m) {
            o += walk.weights[i][static_cast<size_t>(m)] *
                 walk.values[i + 1][static_cast<size_t>(m * s.V + c)];
          }
        }
      }
    }
  }
}

/// All gradients must be wanted, and accumulate or be zero beforehand.
template <class T>
void gated_slot_attention_backward(const GatedSlotShape& s,
                                   std::span<const GatedSlotSequence> sequences,
                                   const GatedSlotBackward<T>& args) {
  for (const GatedSlotSequence& sequence : sequences) {
    for (int64_t h = 0; h < s.H; ++h) {
      const GatedSlotWalk<T> walk(s, sequence, h, args);
      std::vector<T> grad_keys(static_cast<size_t>(s.M * s.P), T{0});
      std::vector<T> grad_values(static_cast<size_t>(s.M * s.V), T{0});
      for (int64_t t = sequence.end - 1; t >= sequence.begin; --t) {
        const auto i = static_cast<size_t>(t - sequence.begin);
        const T* grad_o = args.grad_o + walk.row(t) * s.V;
        const int64_t at_p = walk.row(t) * s.P;
        const int64_t at_v = walk.row(t) * s.V;
        std::vector<T> grad_weights(static_cast<size_t>(s.M), T{0});
        T mean = 0;
        for (int64_t m = 0; m < s.M; ++m) {
          const auto at = static_cast<size_t>(m);
          for (int64_t c = 0; c < s.V; ++c) {
            const auto cell = static_cast<size_t>(m * s.V + c);
            grad_weights[at] += walk.values[i + 1][cell] * grad_o[c];
            grad_values[cell] += walk.weights[i][at] * grad_o[c];
          }
          mean += walk.weights[i][at] * grad_weights[at];
        }
        for (int64_t m = 0; m < s.M; ++m) {
          const auto at = static_cast<size_t>(m);
          const T a = walk.gate(args.log_gate, t, m);
          const T grad_score =
              static_cast<T>(s.scale) * walk.weights[i][at] * (grad_weights[at] - mean);
          T grad_gate = 0;
          for (int64_t c = 0; c < s.P; ++c) {
            const auto cell = static_cast<size_t>(m * s.P + c);
            args.grad_q.data[at_p + c] += grad_score * walk.keys[i + 1][cell];
            grad_keys[cell] += grad_score * args.q[at_p + c];
            grad_gate += grad_keys[cell] * (walk.keys[i][cell] - args.k[at_p + c]);
            args.grad_k.data[at_p + c] += (1 - a) * grad_keys[cell];
            grad_keys[cell] *= a;
          }
          for (int64_t c = 0; c < s.V; ++c) {
            const auto cell = static_cast<size_t>(m * s.V + c);
            grad_gate += grad_values[cell] * (walk.values[i][cell] - args.v[at_v + c]);
            args.grad_v.data[at_v + c] += (1 - a) * grad_values[cell];
            grad_values[cell] *= a;
          }
          args.grad_log_gate.data[walk.row(t) * s.M + m] += a * grad_gate;
        }
      }
    }
  }
}

}  // namespace sluice::kernels::reference
