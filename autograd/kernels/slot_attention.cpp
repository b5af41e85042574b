#include "autograd/kernels/slot_attention.h"

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/softmax.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

/// What is added to a slot's sum of weights.
constexpr double kSumEpsilon = 1e-8;

/// One head of one set: where its rows begin in the arrays, and how far apart they are.
struct Part {
  Part(const SlotShape& s, const SlotRange& range, int64_t set, int64_t head)
      : n(range.end - range.begin),
        S(s.S),
        P(s.P),
        V(s.V),
        row_p(s.H * s.P),
        row_v(s.H * s.V),
        token_p(range.begin * row_p + head * s.P),
        token_v(range.begin * row_v + head * s.V),
        slot_p(set * s.S * row_p + head * s.P),
        slot_v(set * s.S * row_v + head * s.V) {}
  int64_t n, S, P, V;
  int64_t row_p, row_v;
  int64_t token_p, token_v;  // of the first token
  int64_t slot_p, slot_v;    // of the first slot
};

/// A [n, S]
template <class T>
T* weights_of(ArenaScope& scratch, const Part& p, double scale, const T* token, const T* slot) {
  T* scores = scratch.allocate<T>(p.n * p.S);
  gemm_serial<T>({p.n, p.S, p.P}, {token + p.token_p, p.row_p}, {slot + p.slot_p, p.row_p, true},
                 {scores, p.S, static_cast<T>(scale)});
  T* weights = scratch.allocate<T>(p.n * p.S);
  softmax<T>(p.n, p.S, scores, weights);
  return weights;
}

/// Z [S], tokens added in order.
template <class T>
T* sums_of(ArenaScope& scratch, const Part& p, const T* weights) {
  T* sums = scratch.allocate<T>(p.S);
  for (int64_t s = 0; s < p.S; ++s) sums[s] = static_cast<T>(kSumEpsilon);
  for (int64_t t = 0; t < p.n; ++t) {
    for (int64_t s = 0; s < p.S; ++s) sums[s] += weights[t * p.S + s];
  }
  return sums;
}

/// From A and dA [n, S] to the gradients of token and slot.
template <class T>
void put_score_gradients(ArenaScope& scratch, const Part& p, double scale, const T* weights,
                         const T* grad_weights, const SlotBackward<T>& args) {
  T* grad_scores = scratch.allocate<T>(p.n * p.S);
  softmax_backward<T>(p.n, p.S, weights, grad_weights, {grad_scores, false});
  const T factor = static_cast<T>(scale);
  if (args.grad_token != nullptr) {
    gemm_serial<T>({p.n, p.P, p.S}, {grad_scores, p.S}, {args.slot + p.slot_p, p.row_p},
                   {args.grad_token + p.token_p, p.row_p, factor, T{1}});
  }
  if (args.grad_slot != nullptr) {
    gemm_serial<T>({p.S, p.P, p.n}, {grad_scores, p.S, true}, {args.token + p.token_p, p.row_p},
                   {args.grad_slot + p.slot_p, p.row_p, factor, T{1}});
  }
}

template <class Body>
void for_each_part(const SlotShape& shape, std::span<const SlotRange> ranges, Body&& body) {
  parallel_for(std::ssize(ranges) * shape.H, [&](int64_t item) {
    const int64_t set = item / shape.H;
    ArenaScope scratch(thread_arena());
    body(scratch, Part(shape, ranges[static_cast<size_t>(set)], set, item % shape.H));
  });
}

}  // namespace

template <class T>
void read_slots(const SlotShape& shape, std::span<const SlotRange> ranges,
                const SlotForward<T>& args) {
  for_each_part(shape, ranges, [&](ArenaScope& scratch, const Part& p) {
    const T* weights = weights_of(scratch, p, shape.scale, args.token, args.slot);
    gemm_serial<T>({p.n, p.V, p.S}, {weights, p.S}, {args.v + p.slot_v, p.row_v},
                   {args.out + p.token_v, p.row_v});
  });
}

template <class T>
void write_slots(const SlotShape& shape, std::span<const SlotRange> ranges,
                 const SlotForward<T>& args) {
  for_each_part(shape, ranges, [&](ArenaScope& scratch, const Part& p) {
    const T* weights = weights_of(scratch, p, shape.scale, args.token, args.slot);
    const T* sums = sums_of(scratch, p, weights);
    T* out = args.out + p.slot_v;
    gemm_serial<T>({p.S, p.V, p.n}, {weights, p.S, true}, {args.v + p.token_v, p.row_v},
                   {out, p.row_v});
    for (int64_t s = 0; s < p.S; ++s) {
      for (int64_t c = 0; c < p.V; ++c) out[s * p.row_v + c] /= sums[s];
    }
  });
}

template <class T>
void read_slots_backward(const SlotShape& shape, std::span<const SlotRange> ranges,
                         const SlotBackward<T>& args) {
  for_each_part(shape, ranges, [&](ArenaScope& scratch, const Part& p) {
    const T* weights = weights_of(scratch, p, shape.scale, args.token, args.slot);
    const GemmOperand<T> grad{args.grad_out + p.token_v, p.row_v};
    if (args.grad_v != nullptr) {
      gemm_serial<T>({p.S, p.V, p.n}, {weights, p.S, true}, grad,
                     {args.grad_v + p.slot_v, p.row_v, T{1}, T{1}});
    }
    if (args.grad_token == nullptr && args.grad_slot == nullptr) return;
    T* grad_weights = scratch.allocate<T>(p.n * p.S);
    gemm_serial<T>({p.n, p.S, p.V}, grad, {args.v + p.slot_v, p.row_v, true}, {grad_weights, p.S});
    put_score_gradients(scratch, p, shape.scale, weights, grad_weights, args);
  });
}

template <class T>
void write_slots_backward(const SlotShape& shape, std::span<const SlotRange> ranges,
                          const SlotBackward<T>& args) {
  for_each_part(shape, ranges, [&](ArenaScope& scratch, const Part& p) {
    const T* weights = weights_of(scratch, p, shape.scale, args.token, args.slot);
    const T* sums = sums_of(scratch, p, weights);
    T* grad = scratch.allocate<T>(p.S * p.V);  // g
    T* dots = scratch.allocate<T>(p.S);        // <u, g>
    for (int64_t s = 0; s < p.S; ++s) {
      dots[s] = T{0};
      for (int64_t c = 0; c < p.V; ++c) {
        grad[s * p.V + c] = args.grad_out[p.slot_v + s * p.row_v + c] / sums[s];
        dots[s] += grad[s * p.V + c] * args.out[p.slot_v + s * p.row_v + c];
      }
    }
    if (args.grad_v != nullptr) {
      gemm_serial<T>({p.n, p.V, p.S}, {weights, p.S}, {grad, p.V},
                     {args.grad_v + p.token_v, p.row_v, T{1}, T{1}});
    }
    if (args.grad_token == nullptr && args.grad_slot == nullptr) return;
    T* grad_weights = scratch.allocate<T>(p.n * p.S);
    gemm_serial<T>({p.n, p.S, p.V}, {args.v + p.token_v, p.row_v}, {grad, p.V, true},
                   {grad_weights, p.S});
    for (int64_t t = 0; t < p.n; ++t) {
      for (int64_t s = 0; s < p.S; ++s) grad_weights[t * p.S + s] -= dots[s];
    }
    put_score_gradients(scratch, p, shape.scale, weights, grad_weights, args);
  });
}

#define SLUICE_INSTANTIATE(T)                                                                     \
  template void read_slots(const SlotShape&, std::span<const SlotRange>, const SlotForward<T>&);  \
  template void write_slots(const SlotShape&, std::span<const SlotRange>, const SlotForward<T>&); \
  template void read_slots_backward(const SlotShape&, std::span<const SlotRange>,                 \
                                    const SlotBackward<T>&);                                      \
  template void write_slots_backward(const SlotShape&, std::span<const SlotRange>,                \
                                     const SlotBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
