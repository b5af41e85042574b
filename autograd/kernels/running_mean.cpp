#include "autograd/kernels/running_mean.h"

#include <algorithm>

#include "autograd/support/arena.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kColumns = 64;  // of a block: a cache line or more of every row

/// body(document, first column, columns) for every document and block of columns, in parallel.
template <class Body>
void for_each_block(int64_t D, std::span<const int64_t> documents, Body&& body) {
  const int64_t blocks = ceil_div(D, kColumns);
  const int64_t count = std::max<int64_t>(std::ssize(documents) - 1, 0);
  parallel_for(count * blocks, [&](int64_t i) {
    const int64_t first = i % blocks * kColumns;
    body(static_cast<size_t>(i / blocks), first, std::min(kColumns, D - first));
  });
}

}  // namespace

template <class T>
void running_mean(int64_t D, std::span<const int64_t> documents, const T* x, T* y,
                  const RunningSums* state) {
  for_each_block(D, documents, [&](size_t g, int64_t first, int64_t columns) {
    double own[kColumns] = {};
    const bool goes_on = state != nullptr && g == 0;
    double* sums = goes_on ? state->sums + first : own;
    int64_t count = goes_on ? state->count : 0;
    for (int64_t t = documents[g]; t < documents[g + 1]; ++t) {
      const double factor = 1.0 / static_cast<double>(++count);
      const T* row = x + t * D + first;
      T* mean = y + t * D + first;
      for (int64_t i = 0; i < columns; ++i) {
        sums[i] += static_cast<double>(row[i]);
        mean[i] = static_cast<T>(sums[i] * factor);
      }
    }
  });
}

template <class T>
void running_mean_backward(int64_t D, std::span<const int64_t> documents, const T* grad_y,
                           const Gradient<T>& grad_x) {
  for_each_block(D, documents, [&](size_t g, int64_t first, int64_t columns) {
    double sums[kColumns] = {};
    for (int64_t t = documents[g + 1] - 1; t >= documents[g]; --t) {
      const double factor = 1.0 / static_cast<double>(t - documents[g] + 1);
      const T* row = grad_y + t * D + first;
      put_gradient(grad_x.from(t * D + first), columns, [&](int64_t i) {
        sums[i] += static_cast<double>(row[i]) * factor;
        return static_cast<T>(sums[i]);
      });
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                                                      \
  template void running_mean(int64_t, std::span<const int64_t>, const T*, T*, const RunningSums*); \
  template void running_mean_backward(int64_t, std::span<const int64_t>, const T*,                 \
                                      const Gradient<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
