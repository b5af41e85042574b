#include "autograd/kernels/linear_cross_entropy.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/head.h"
#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kLogitsPerChunk = int64_t{1} << 22;

/// One token: its loss and log-sum-exp; `z` [V] becomes dz when gradients are wanted.
template <class T>
struct TokenResult {
  T loss;
  T lse;
};

template <class T>
TokenResult<T> token_loss_inplace(const LinearCrossEntropy<T>& args, int32_t target,
                                  bool wants_grad, T* z) {
  if (target < 0) {
    if (wants_grad) std::fill_n(z, args.V, T{0});
    return {0, 0};
  }
  const T z_target = z[target];
  const T m = max_of_array(args.V, z);
  const T total = exp_shifted(args.V, z, m, wants_grad ? z : nullptr);
  const T lse = m + std::log(total);
  if (wants_grad) {
    const T factor = (1 + 2 * args.z_loss * lse) / (total * args.divisor);
    for (int64_t v = 0; v < args.V; ++v) z[v] *= factor;
    z[target] -= 1 / args.divisor;
  }
  return {lse - z_target, lse};
}

}  // namespace

int64_t linear_cross_entropy_chunk(int64_t V) {
  constexpr int64_t kSmallest = 256;
  return std::max(kSmallest, kLogitsPerChunk / std::max<int64_t>(1, V));
}

template <class T>
double linear_cross_entropy(const LinearCrossEntropy<T>& args) {
  const auto [N, D, V] = std::array{args.N, args.D, args.V};
  const bool wants_grad = args.grad_hidden != nullptr || args.grad_weight != nullptr;
  const int64_t chunk = linear_cross_entropy_chunk(V);
  ArenaScope scratch(thread_arena());
  T* lse = scratch.allocate<T>(chunk);
  double loss = 0.0;
  double squares = 0.0;
  if (args.grad_weight != nullptr && N == 0) std::fill_n(args.grad_weight, V * D, T{0});
  for (int64_t begin = 0; begin < N; begin += chunk) {
    const int64_t n = std::min(chunk, N - begin);
    const T* hidden = args.hidden + begin * D;
    gemm<T>({n, V, D}, {hidden, D}, {args.weight, D, true}, {args.logits, V});
    parallel_rows(n, V, [&](int64_t row) {
      const auto result =
          token_loss_inplace(args, args.targets[begin + row], wants_grad, args.logits + row * V);
      args.token_loss[begin + row] = result.loss;
      lse[row] = result.lse;
    });
    for (int64_t row = 0; row < n; ++row) {
      loss += static_cast<double>(args.token_loss[begin + row]);
      squares += static_cast<double>(lse[row]) * static_cast<double>(lse[row]);
    }
    T* grad_hidden = args.grad_hidden == nullptr ? nullptr : args.grad_hidden + begin * D;
    head_backward<T>({n, V, D}, args.logits, hidden, args.weight, {grad_hidden, args.grad_weight},
                     begin == 0);
  }
  return (loss + static_cast<double>(args.z_loss) * squares) / static_cast<double>(args.divisor);
}

template double linear_cross_entropy<float>(const LinearCrossEntropy<float>&);
template double linear_cross_entropy<double>(const LinearCrossEntropy<double>&);

}  // namespace sluice::kernels
