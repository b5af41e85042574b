#pragma once
// Tokens and slots as plain loops.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/slot_attention.h"

namespace sluice::kernels::reference {

/// The rows of one head of one set, by token (counted from the range's first) and slot.
template <class T>
struct SlotPart {
  SlotPart(const SlotShape& shape_, const SlotRange& range_, int64_t set_, int64_t head_,
           const T* token, const T* slot)
      : shape(shape_), range(range_), set(set_), head(head_), weight(pairs()) {
    for (int64_t t = 0; t < tokens(); ++t) {
      T greatest = -INFINITY;
      for (int64_t s = 0; s < shape.S; ++s) {
        T& score = at(weight, t, s);
        score = 0;
        for (int64_t c = 0; c < shape.P; ++c) {
          score += token[token_row(t, shape.P) + c] * slot[slot_row(s, shape.P) + c];
        }
        score *= static_cast<T>(shape.scale);
        greatest = std::max(greatest, score);
      }
      T sum = 0;
      for (int64_t s = 0; s < shape.S; ++s) {
        sum += at(weight, t, s) = std::exp(at(weight, t, s) - greatest);
      }
      for (int64_t s = 0; s < shape.S; ++s) at(weight, t, s) /= sum;
    }
  }
  [[nodiscard]] int64_t tokens() const { return range.end - range.begin; }
  [[nodiscard]] size_t pairs() const { return static_cast<size_t>(tokens() * shape.S); }
  [[nodiscard]] T& at(std::vector<T>& of_pairs, int64_t t, int64_t s) const {
    return of_pairs[static_cast<size_t>(t * shape.S + s)];
  }
  /// Z
  [[nodiscard]] T sum_of(int64_t s) {
    T sum = static_cast<T>(1e-8);
    for (int64_t t = 0; t < tokens(); ++t) sum += at(weight, t, s);
    return sum;
  }
  [[nodiscard]] int64_t token_row(int64_t t, int64_t width) const {
    return ((range.begin + t) * shape.H + head) * width;
  }
  [[nodiscard]] int64_t slot_row(int64_t s, int64_t width) const {
    return ((set * shape.S + s) * shape.H + head) * width;
  }
  /// From dA to the gradients of token and slot.
  void add_score_gradients(std::vector<T>& grad_weight, const SlotBackward<T>& args) {
    for (int64_t t = 0; t < tokens(); ++t) {
      T mean = 0;
      for (int64_t s = 0; s < shape.S; ++s) mean += at(weight, t, s) * at(grad_weight, t, s);
      for (int64_t s = 0; s < shape.S; ++s) {
        const T grad_score =
            static_cast<T>(shape.scale) * at(weight, t, s) * (at(grad_weight, t, s) - mean);
        for (int64_t c = 0; c < shape.P; ++c) {
          const int64_t of_token = token_row(t, shape.P) + c;
          const int64_t of_slot = slot_row(s, shape.P) + c;
          args.grad_token[of_token] += grad_score * args.slot[of_slot];
          args.grad_slot[of_slot] += grad_score * args.token[of_token];
        }
      }
    }
  }
  SlotShape shape;
  SlotRange range;
  int64_t set;
  int64_t head;
  std::vector<T> weight;  // A [tokens, S]
};

template <class T, class Body>
void for_each_slot_part(const SlotShape& shape, std::span<const SlotRange> ranges, const T* token,
                        const T* slot, Body&& body) {
  for (size_t g = 0; g < ranges.size(); ++g) {
    for (int64_t h = 0; h < shape.H; ++h) {
      body(SlotPart<T>(shape, ranges[g], static_cast<int64_t>(g), h, token, slot));
    }
  }
}

template <class T>
void read_slots(const SlotShape& shape, std::span<const SlotRange> ranges,
                const SlotForward<T>& args) {
  for_each_slot_part<T>(shape, ranges, args.token, args.slot, [&](SlotPart<T> p) {
    for (int64_t t = 0; t < p.tokens(); ++t) {
      for (int64_t c = 0; c < shape.V; ++c) {
        T& o = args.out[p.token_row(t, shape.V) + c];
        o = 0;
        for (int64_t s = 0; s < shape.S; ++s) {
          o += p.at(p.weight, t, s) * args.v[p.slot_row(s, shape.V) + c];
        }
      }
    }
  });
}

template <class T>
void write_slots(const SlotShape& shape, std::span<const SlotRange> ranges,
                 const SlotForward<T>& args) {
  for_each_slot_part<T>(shape, ranges, args.token, args.slot, [&](SlotPart<T> p) {
    for (int64_t s = 0; s < shape.S; ++s) {
      for (int64_t c = 0; c < shape.V; ++c) {
        T& u = args.out[p.slot_row(s, shape.V) + c];
        u = 0;
        for (int64_t t = 0; t < p.tokens(); ++t) {
          u += p.at(p.weight, t, s) * args.v[p.token_row(t, shape.V) + c];
        }
        u /= p.sum_of(s);
      }
    }
  });
}

/// All gradients must be wanted.
template <class T>
void read_slots_backward(const SlotShape& shape, std::span<const SlotRange> ranges,
                         const SlotBackward<T>& args) {
  for_each_slot_part<T>(shape, ranges, args.token, args.slot, [&](SlotPart<T> p) {
    std::vector<T> grad_weight(p.pairs(), T{0});
    for (int64_t t = 0; t < p.tokens(); ++t) {
      for (int64_t s = 0; s < shape.S; ++s) {
        for (int64_t c = 0; c < shape.V; ++c) {
          const T g = args.grad_out[p.token_row(t, shape.V) + c];
          p.at(grad_weight, t, s) += g * args.v[p.slot_row(s, shape.V) + c];
          args.grad_v[p.slot_row(s, shape.V) + c] += p.at(p.weight, t, s) * g;
        }
      }
    }
    p.add_score_gradients(grad_weight, args);
  });
}

template <class T>
void write_slots_backward(const SlotShape& shape, std::span<const SlotRange> ranges,
                          const SlotBackward<T>& args) {
  for_each_slot_part<T>(shape, ranges, args.token, args.slot, [&](SlotPart<T> p) {
    std::vector<T> grad_weight(p.pairs(), T{0});
    for (int64_t s = 0; s < shape.S; ++s) {
      const T sum = p.sum_of(s);
      for (int64_t t = 0; t < p.tokens(); ++t) {
        for (int64_t c = 0; c < shape.V; ++c) {
          const T g = args.grad_out[p.slot_row(s, shape.V) + c] / sum;
          const T away = args.v[p.token_row(t, shape.V) + c] - args.out[p.slot_row(s, shape.V) + c];
          p.at(grad_weight, t, s) += g * away;
          args.grad_v[p.token_row(t, shape.V) + c] += p.at(p.weight, t, s) * g;
        }
      }
    }
    p.add_score_gradients(grad_weight, args);
  });
}

}  // namespace sluice::kernels::reference
