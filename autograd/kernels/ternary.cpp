#include "autograd/kernels/ternary.h"

#include <algorithm>
#include <cmath>

#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kBlock = int64_t{1} << 14;
constexpr int64_t kRowsAtATime = 64;

}  // namespace

template <class T>
void ternarise(int64_t matrices, int64_t size, double epsilon, const T* x, T* y) {
  for (int64_t m = 0; m < matrices; ++m) {
    const T* from = x + m * size;
    T* to = y + m * size;
    const double sum = parallel_sum<double>(size, kBlock, [&](int64_t begin, int64_t end) {
      double total = 0.0;
      for (int64_t i = begin; i < end; ++i) total += std::abs(static_cast<double>(from[i]));
      return total;
    });
    const double g = size == 0 ? 0.0 : sum / static_cast<double>(size);
    const double factor = 1.0 / (g + epsilon);
    parallel_for_ranges(size, kBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const double t = std::nearbyint(static_cast<double>(from[i]) * factor);
        to[i] = static_cast<T>(g * std::clamp(t, -1.0, 1.0));
      }
    });
  }
}

template <class T>
void round_rows_to_int8(int64_t rows, int64_t width, const T* x, T* y) {
  parallel_for_ranges(rows, kRowsAtATime, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* from = x + row * width;
      T* to = y + row * width;
      double largest = 0.0;
      for (int64_t i = 0; i < width; ++i) {
        largest = std::max(largest, std::abs(static_cast<double>(from[i])));
      }
      if (largest == 0.0) {
        std::fill(to, to + width, T{0});
        continue;
      }
      const double a = 127.0 / largest;
      for (int64_t i = 0; i < width; ++i) {
        const double level = std::nearbyint(a * static_cast<double>(from[i]));
        to[i] = static_cast<T>(std::clamp(level, -128.0, 127.0) / a);
      }
    }
  });
}

template void ternarise<float>(int64_t, int64_t, double, const float*, float*);
template void ternarise<double>(int64_t, int64_t, double, const double*, double*);
template void round_rows_to_int8<float>(int64_t, int64_t, const float*, float*);
template void round_rows_to_int8<double>(int64_t, int64_t, const double*, double*);

}  // namespace sluice::kernels
