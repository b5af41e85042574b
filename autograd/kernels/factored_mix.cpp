#include "autograd/kernels/factored_mix.h"

#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

/// sums[h] = sum over i in order of weight[h, i] rows[i], for weights that are not 0; sums [H, m].
template <class T>
void weighted_sums(const MixShape& s, const T* weight, const T* rows, T* sums) {
  std::fill_n(sums, s.H * s.m, T{0});
  for (int64_t h = 0; h < s.H; ++h) {
    T* sum = sums + h * s.m;
    for (int64_t i = 0; i < s.n; ++i) {
      const T w = weight[h * s.n + i];
      if (w == T{0}) continue;
      const T* row = rows + i * s.m;
      for (int64_t c = 0; c < s.m; ++c) sum[c] += w * row[c];
    }
  }
}

/// rows[i] += sum over h in order of weight[h, i] sums[h]; rows [n, m].
template <class T>
void spread(const MixShape& s, const T* weight, const T* sums, T* rows) {
  for (int64_t h = 0; h < s.H; ++h) {
    const T* sum = sums + h * s.m;
    for (int64_t i = 0; i < s.n; ++i) {
      const T w = weight[h * s.n + i];
      if (w == T{0}) continue;
      T* row = rows + i * s.m;
      for (int64_t c = 0; c < s.m; ++c) row[c] += w * sum[c];
    }
  }
}

/// grad[h, i] (+)= <sums[h], rows[i]>
template <class T>
void weight_gradient(const MixShape& s, const T* sums, const T* rows, const Gradient<T>& grad) {
  for (int64_t h = 0; h < s.H; ++h) {
    put_gradient(grad.from(h * s.n), s.n, [&](int64_t i) {
      T dot{0};
      for (int64_t c = 0; c < s.m; ++c) dot += sums[h * s.m + c] * rows[i * s.m + c];
      return dot;
    });
  }
}

}  // namespace

template <class T>
void factored_mix(const MixShape& s, const MixInputs<T>& in, T* z) {
  parallel_rows(s.N, s.n * (s.m + 2 * s.H), [&](int64_t token) {
    ArenaScope scratch(thread_arena());
    T* sums = scratch.allocate<T>(s.H * s.m);
    weighted_sums(s, in.from + token * s.H * s.n, in.a + token * s.n * s.m, sums);
    T* rows = z + token * s.n * s.m;
    std::fill_n(rows, s.n * s.m, T{0});
    spread(s, in.to + token * s.H * s.n, sums, rows);
  });
}

template <class T>
void factored_mix_backward(const MixShape& s, const FactoredMixBackward<T>& args) {
  parallel_rows(s.N, s.n * (s.m + s.H) * 2, [&](int64_t token) {
    ArenaScope scratch(thread_arena());
    const int64_t weights = token * s.H * s.n;
    const int64_t rows = token * s.n * s.m;
    const T* from = args.in.from + weights;
    const T* to = args.in.to + weights;
    const T* a = args.in.a + rows;
    const T* grad_z = args.grad_z + rows;
    T* sums = scratch.allocate<T>(s.H * s.m);
    if (args.grad_to) {
      weighted_sums(s, from, a, sums);
      weight_gradient(s, sums, grad_z, args.grad_to.from(weights));
    }
    if (!args.grad_from && !args.grad_a) return;
    weighted_sums(s, to, grad_z, sums);
    if (args.grad_from) weight_gradient(s, sums, a, args.grad_from.from(weights));
    if (args.grad_a) {
      const Gradient<T> grad_a = args.grad_a.from(rows);
      zero_unless_accumulating(grad_a, s.n * s.m);
      spread(s, from, sums, grad_a.data);
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                           \
  template void factored_mix(const MixShape&, const MixInputs<T>&, T*); \
  template void factored_mix_backward(const MixShape&, const FactoredMixBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
