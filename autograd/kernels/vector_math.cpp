#include "autograd/kernels/vector_math.h"

#include <limits>

namespace sluice::kernels {

template <class T>
void exp_array(int64_t n, const T* x, T* y) {
  for_each_vector<T>(n, [&](int64_t i, int64_t count) {
    store_first(y + i, exp(load_first(x + i, count)), count);
  });
}

template <class T>
T exp_shifted(int64_t n, const T* x, T shift, T* y) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  const Vec<T> shifts = broadcast(shift);
  Vec<T> sum = zeros<T>();
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Vec<T> value = exp(load(x + i) - shifts);
    if (y != nullptr) store(y + i, value);
    sum = sum + value;
  }
  if (i < n) {
    const Vec<T> value = exp(load_first(x + i, n - i) - shifts);
    T last[kWidth];
    store(last, value);
    for (int64_t lane = n - i; lane < kWidth; ++lane) last[lane] = T{0};
    if (y != nullptr) store_first(y + i, value, n - i);
    sum = sum + load(last);
  }
  return sum_lanes(sum);
}

template <class T>
T max_of_array(int64_t n, const T* x) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  T largest = -std::numeric_limits<T>::infinity();
  int64_t i = 0;
  if (n >= kWidth) {
    Vec<T> lanes = broadcast(largest);
    for (; i + kWidth <= n; i += kWidth) lanes = max(load(x + i), lanes);
    largest = max_lanes(lanes);
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

template void exp_array<float>(int64_t, const float*, float*);
template void exp_array<double>(int64_t, const double*, double*);
template float exp_shifted<float>(int64_t, const float*, float, float*);
template double exp_shifted<double>(int64_t, const double*, double, double*);
template float max_of_array<float>(int64_t, const float*);
template double max_of_array<double>(int64_t, const double*);

}  // namespace sluice::kernels
