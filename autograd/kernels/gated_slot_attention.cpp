#include "autograd/kernels/gated_slot_attention.h"

#include <algorithm>

#include "autograd/kernels/rows.h"
#include "autograd/kernels/softmax.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {
namespace {

/// Where a token's rows of one head lie.
struct Token {
  Token(const GatedSlotShape& s, int64_t t, int64_t head)
      : p((t * s.H + head) * s.P), v((t * s.H + head) * s.V), m((t * s.H + head) * s.M) {}
  int64_t p, v, m;
};

/// after = value + gate (before - value); after may be before.
template <class T>
void take_in(int64_t n, T gate, const T* value, const T* before, T* after) {
  for_each_vector<T>(n, [=](int64_t i, int64_t count) {
    const Vec<T> x = load_first(value + i, count);
    store_first(after + i, fma(broadcast(gate), load_first(before + i, count) - x, x), count);
  });
}

/// a = e^g [M]
template <class T>
void open_gates(int64_t M, const T* log_gate, T* gates) {
  for_each_vector<T>(M, [=](int64_t i, int64_t count) {
    store_first(gates + i, exp(load_first(log_gate + i, count)), count);
  });
}

template <class T>
void add_scaled_row(int64_t n, T factor, const T* x, T* y) {
  for (int64_t c = 0; c < n; ++c) y[c] += factor * x[c];
}

/// The memory behind a token, from the one before it; `args` has q, k, v and log_gate.
template <class T, class Args>
void write_memory(const GatedSlotShape& s, const Token& token, const Args& args, T* gates,
                  const T* before, T* after) {
  open_gates(s.M, args.log_gate + token.m, gates);
  for (int64_t m = 0; m < s.M; ++m) {
    const int64_t row = m * (s.P + s.V);
    take_in(s.P, gates[m], args.k + token.p, before + row, after + row);
    take_in(s.V, gates[m], args.v + token.v, before + row + s.P, after + row + s.P);
  }
}

/// p [M]
template <class T>
void weigh(const GatedSlotShape& s, const T* q, const T* memory, T* scores, T* weights) {
  for (int64_t m = 0; m < s.M; ++m) {
    scores[m] = static_cast<T>(s.scale) * row_dot(s.P, memory + m * (s.P + s.V), q);
  }
  softmax<T>(1, s.M, scores, weights);
}

template <class T>
void forward_head(const GatedSlotShape& s, const GatedSlotSequence& sequence, int64_t head,
                  T* memory, const GatedSlotForward<T>& args) {
  ArenaScope scratch(thread_arena());
  T* scores = scratch.allocate<T>(s.M);
  T* weights = scratch.allocate<T>(s.M);
  T* gates = scratch.allocate<T>(s.M);
  int64_t state = sequence.first_state;
  for (int64_t t = sequence.begin; t < sequence.end; ++t) {
    const bool starts_segment = t > sequence.begin && (t - sequence.begin) % kSlotSegment == 0;
    if (starts_segment && args.states != nullptr) {
      std::copy_n(memory, s.memory(), args.states + (state++ * s.H + head) * s.memory());
    }
    const Token token(s, t, head);
    write_memory(s, token, args, gates, memory, memory);
    weigh(s, args.q + token.p, memory, scores, weights);
    T* o = args.o + token.v;
    std::fill_n(o, s.V, T{0});
    for (int64_t m = 0; m < s.M; ++m) {
      add_scaled_row(s.V, weights[m], memory + m * (s.P + s.V) + s.P, o);
    }
  }
}

/// What a head carries backwards, and the rows of a token's gradients.
template <class T>
struct Carried {
  Carried(ArenaScope& scratch, const GatedSlotShape& s)
      : memory(scratch.allocate<T>(s.memory())),
        scores(scratch.allocate<T>(s.M)),
        weights(scratch.allocate<T>(s.M)),
        grad_weights(scratch.allocate<T>(s.M)),
        q(scratch.allocate<T>(s.P)),
        k(scratch.allocate<T>(s.P)),
        v(scratch.allocate<T>(s.V)),
        gates(scratch.allocate<T>(s.M)),
        grad_gates(scratch.allocate<T>(s.M)) {
    std::fill_n(memory, s.memory(), T{0});
  }
  T* memory;  // Z and Y, as the memory lies
  T* scores;
  T* weights;
  T* grad_weights;  // [M], then of the scores
  T* q;
  T* k;
  T* v;
  T* gates;
  T* grad_gates;  // of their logarithms
};

/// <x, y - z>
template <class T>
T dot_of_difference(int64_t n, const T* x, const T* y, const T* z) {
  return vector_sum<T>(n, [=](int64_t i, int64_t count) {
    return load_first(x + i, count) * (load_first(y + i, count) - load_first(z + i, count));
  });
}

/// One token backwards: the memories before and behind it.
template <class T>
void walk_back(const GatedSlotShape& s, const Token& token, const T* before, const T* behind,
               const GatedSlotBackward<T>& args, const Carried<T>& c) {
  const int64_t row = s.P + s.V;
  const T* grad_o = args.grad_o + token.v;
  weigh(s, args.q + token.p, behind, c.scores, c.weights);
  for (int64_t m = 0; m < s.M; ++m) {
    c.grad_weights[m] = row_dot(s.V, behind + m * row + s.P, grad_o);
    add_scaled_row(s.V, c.weights[m], grad_o, c.memory + m * row + s.P);
  }
  softmax_backward<T>(1, s.M, c.weights, c.grad_weights, {c.scores, false});
  open_gates(s.M, args.log_gate + token.m, c.gates);
  std::fill_n(c.q, s.P, T{0});
  std::fill_n(c.k, s.P, T{0});
  std::fill_n(c.v, s.V, T{0});
  for (int64_t m = 0; m < s.M; ++m) {
    const T grad_score = static_cast<T>(s.scale) * c.scores[m];
    T* grad_key = c.memory + m * row;
    T* grad_value = grad_key + s.P;
    add_scaled_row(s.P, grad_score, behind + m * row, c.q);
    add_scaled_row(s.P, grad_score, args.q + token.p, grad_key);
    const T gate = c.gates[m];
    c.grad_gates[m] =
        gate * (dot_of_difference(s.P, grad_key, before + m * row, args.k + token.p) +
                dot_of_difference(s.V, grad_value, before + m * row + s.P, args.v + token.v));
    add_scaled_row(s.P, T{1} - gate, grad_key, c.k);
    add_scaled_row(s.V, T{1} - gate, grad_value, c.v);
    for (int64_t i = 0; i < row; ++i) grad_key[i] *= gate;
  }
  const auto put = [](const Gradient<T>& gradient, int64_t at, int64_t n, const T* values) {
    if (gradient) put_gradient(gradient.from(at), n, [=](int64_t i) { return values[i]; });
  };
  put(args.grad_q, token.p, s.P, c.q);
  put(args.grad_k, token.p, s.P, c.k);
  put(args.grad_v, token.v, s.V, c.v);
  put(args.grad_log_gate, token.m, s.M, c.grad_gates);
}

template <class T>
void backward_head(const GatedSlotShape& s, const GatedSlotSequence& sequence, int64_t head,
                   const GatedSlotBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  const Carried<T> carried(scratch, s);
  T* memories = scratch.allocate<T>((kSlotSegment + 1) * s.memory());
  const int64_t segments = ceil_div(sequence.end - sequence.begin, kSlotSegment);
  for (int64_t segment = segments - 1; segment >= 0; --segment) {
    const int64_t begin = sequence.begin + segment * kSlotSegment;
    const int64_t end = std::min(sequence.end, begin + kSlotSegment);
    if (segment == 0) {
      std::fill_n(memories, s.memory(), T{0});
    } else {
      const int64_t state = sequence.first_state + segment - 1;
      std::copy_n(args.states + (state * s.H + head) * s.memory(), s.memory(), memories);
    }
    for (int64_t t = begin; t < end; ++t) {
      T* before = memories + (t - begin) * s.memory();
      write_memory(s, Token(s, t, head), args, carried.gates, before, before + s.memory());
    }
    for (int64_t t = end - 1; t >= begin; --t) {
      const T* before = memories + (t - begin) * s.memory();
      walk_back(s, Token(s, t, head), before, before + s.memory(), args, carried);
    }
  }
}

}  // namespace

template <class T>
void gated_slot_attention(const GatedSlotShape& shape, std::span<const GatedSlotSequence> sequences,
                          const GatedSlotForward<T>& args) {
  parallel_for(std::ssize(sequences) * shape.H, [&](int64_t item) {
    const int64_t sequence = item / shape.H;
    ArenaScope scratch(thread_arena());
    T* memory = args.memories == nullptr ? scratch.allocate<T>(shape.memory())
                                         : args.memories + item * shape.memory();
    if (args.memories == nullptr) std::fill_n(memory, shape.memory(), T{0});
    forward_head(shape, sequences[static_cast<size_t>(sequence)], item % shape.H, memory, args);
  });
}

template <class T>
void gated_slot_attention_backward(const GatedSlotShape& shape,
                                   std::span<const GatedSlotSequence> sequences,
                                   const GatedSlotBackward<T>& args) {
  parallel_for(std::ssize(sequences) * shape.H, [&](int64_t item) {
    backward_head(shape, sequences[static_cast<size_t>(item / shape.H)], item % shape.H, args);
  });
}

#define SLUICE_INSTANTIATE(T)                                                                   \
  template void gated_slot_attention(const GatedSlotShape&, std::span<const GatedSlotSequence>, \
                                     const GatedSlotForward<T>&);                               \
  template void gated_slot_attention_backward(                                                  \
      const GatedSlotShape&, std::span<const GatedSlotSequence>, const GatedSlotBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
