#include "autograd/kernels/linear_consistency.h"

#include <algorithm>
#include <array>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/head.h"
#include "autograd/kernels/linear_cross_entropy.h"
#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

/// One token: its J; the logits `a` and `b` [V] of its passes are overwritten, by their gradients
/// when those are wanted. `p` and `q` [V] are scratch.
template <class T>
double token_inplace(int64_t V, T divisor, bool wants_grad, T* a, T* b, T* p, T* q) {
  const T shift = softmax_of_row(V, a, p) - softmax_of_row(V, b, q);
  for (int64_t v = 0; v < V; ++v) a[v] -= b[v] + shift;  // d
  const T forward = row_dot(V, p, a);                    // KL(p || q)
  const T backward = -row_dot(V, q, a);                  // KL(q || p)
  if (wants_grad) {
    const T half = 1 / (2 * divisor);
    for (int64_t v = 0; v < V; ++v) {
      const T d = a[v];
      a[v] = half * (p[v] * (d - forward) + p[v] - q[v]);
      b[v] = half * (q[v] * (-d - backward) + q[v] - p[v]);
    }
  }
  return 0.5 * (static_cast<double>(forward) + static_cast<double>(backward));
}

}  // namespace

int64_t linear_consistency_chunk(int64_t V) { return (linear_cross_entropy_chunk(V) + 1) / 2; }

template <class T>
double linear_consistency(const LinearConsistency<T>& args) {
  const auto [N, D, V] = std::array{args.N, args.D, args.V};
  const bool wants_grad = args.grad_hidden != nullptr || args.grad_weight != nullptr;
  const int64_t chunk = linear_consistency_chunk(V);
  ArenaScope scratch(thread_arena());
  double* token_loss = scratch.allocate<double>(chunk);
  double loss = 0.0;
  if (args.grad_weight != nullptr && N == 0) std::fill_n(args.grad_weight, V * D, T{0});
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const int64_t n = std::min(chunk, N - begin);
    const std::array<int64_t, 2> rows = {begin, N + begin};  // of hidden, by pass
    const std::array<T*, 2> logits = {args.logits, args.logits + n * V};
    for (size_t pass = 0; pass < 2; ++pass) {
      gemm<T>({n, V, D}, {args.hidden + rows[pass] * D, D}, {args.weight, D, true},
              {logits[pass], V});
    }
    parallel_rows(n, V, [&](int64_t row) {
      T* a = logits[0] + row * V;
      T* b = logits[1] + row * V;
      token_loss[row] = 0.0;
      if (args.targets[begin + row] < 0) {
        std::fill_n(a, V, T{0});
        std::fill_n(b, V, T{0});
        return;
      }
      ArenaScope of_thread(thread_arena());
      T* p = of_thread.template allocate<T>(V);
      T* q = of_thread.template allocate<T>(V);
      token_loss[row] = token_inplace(V, args.divisor, wants_grad, a, b, p, q);
    });
    for (int64_t row = 0; row < n; ++row) loss += token_loss[row];
    for (size_t pass = 0; pass < 2; ++pass) {
      T* grad_hidden = args.grad_hidden == nullptr ? nullptr : args.grad_hidden + rows[pass] * D;
      head_backward<T>({n, V, D}, logits[pass], args.hidden + rows[pass] * D, args.weight,
                       {grad_hidden, args.grad_weight}, begin == 0 && pass == 0);
    }
  }
  return loss / static_cast<double>(args.divisor);
}

template double linear_consistency<float>(const LinearConsistency<float>&);
template double linear_consistency<double>(const LinearConsistency<double>&);

}  // namespace sluice::kernels
