#include "autograd/kernels/linear_distillation.h"

#include <algorithm>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/head.h"
#include "autograd/kernels/linear_cross_entropy.h"
#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

/// z <- z / tau and p <- softmax(z), both [V]; returns log sum_v e^z_v.
template <class T>
T soften(int64_t V, T temperature, T* z, T* p) {
  for (int64_t v = 0; v < V; ++v) z[v] /= temperature;
  return softmax_of_row(V, z, p);
}

/// One token: KL(q || p). The student's logits `a` are overwritten by their gradient, those of the
/// teacher, `b`, by what they are no longer needed for; `p` and `q` [V] are scratch.
template <class T>
double token_inplace(const LinearDistillation<T>& args, T* a, T* b, T* p, T* q) {
  const T shift = soften(args.V, args.temperature, b, q) - soften(args.V, args.temperature, a, p);
  for (int64_t v = 0; v < args.V; ++v) b[v] -= a[v] + shift;  // log q - log p
  const T divergence = row_dot(args.V, q, b);
  const T scale = args.temperature / args.divisor;
  for (int64_t v = 0; v < args.V; ++v) a[v] = scale * (p[v] - q[v]);
  return static_cast<double>(divergence);
}

}  // namespace

int64_t linear_distillation_chunk(int64_t V) { return (linear_cross_entropy_chunk(V) + 1) / 2; }

template <class T>
double linear_distillation(const LinearDistillation<T>& args) {
  const int64_t chunk = linear_distillation_chunk(args.V);
  ArenaScope scratch(thread_arena());
  double* token_loss = scratch.allocate<double>(chunk);
  double loss = 0.0;
  if (args.grad_weight != nullptr && args.N == 0) {
    std::fill_n(args.grad_weight, args.V * args.D, T{0});
  }
  for (int64_t begin = 0; begin < args.N; begin += chunk) {
    const int64_t n = std::min(chunk, args.N - begin);
    T* student = args.logits;
    T* teacher = args.logits + n * args.V;
    const T* hidden = args.hidden + begin * args.D;
    gemm<T>({n, args.V, args.D}, {hidden, args.D}, {args.weight, args.D, true}, {student, args.V});
    gemm<T>({n, args.V, args.C}, {args.teacher_hidden + begin * args.C, args.C},
            {args.teacher_weight, args.C, true}, {teacher, args.V});
    parallel_rows(n, args.V, [&](int64_t row) {
      T* a = student + row * args.V;
      token_loss[row] = 0.0;
      if (args.targets[begin + row] < 0) {
        std::fill_n(a, args.V, T{0});
        return;
      }
      ArenaScope of_thread(thread_arena());
      T* p = of_thread.template allocate<T>(args.V);
      T* q = of_thread.template allocate<T>(args.V);
      token_loss[row] = token_inplace(args, a, teacher + row * args.V, p, q);
    });
    for (int64_t row = 0; row < n; ++row) loss += token_loss[row];
    T* grad_hidden = args.grad_hidden == nullptr ? nullptr : args.grad_hidden + begin * args.D;
    head_backward<T>({n, args.V, args.D}, student, hidden, args.weight,
                     {grad_hidden, args.grad_weight}, begin == 0);
  }
  const auto temperature = static_cast<double>(args.temperature);
  return temperature * temperature * loss / static_cast<double>(args.divisor);
}

template double linear_distillation<float>(const LinearDistillation<float>&);
template double linear_distillation<double>(const LinearDistillation<double>&);

}  // namespace sluice::kernels
