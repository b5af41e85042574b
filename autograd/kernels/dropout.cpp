#include "autograd/kernels/dropout.h"

#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kPerDraw = 4;  // columns that one 128-bit random number serves

/// body(row, sample, position) for every row, in parallel.
template <class Body>
void for_each_row(int64_t cols, const RowStreams& streams, Body&& body) {
  const int64_t* offsets = streams.sequence_offsets;
  parallel_rows(offsets[streams.sequences], cols, [&](int64_t row) {
    // The last sequence that starts at or before the row; empty ones are passed over.
    const int64_t sequence =
        std::upper_bound(offsets, offsets + streams.sequences + 1, row) - offsets - 1;
    body(row, streams.samples[sequence], static_cast<uint64_t>(row - offsets[sequence]));
  });
}

/// y = x * factor(32 random bits), element by element.
template <class T, class Factor>
void multiply_randomly(int64_t cols, const RowStreams& streams, const T* x, const Gradient<T>& y,
                       Factor&& factor) {
  const auto draws = static_cast<uint64_t>(ceil_div(cols, kPerDraw));
  for_each_row(cols, streams, [&](int64_t row, uint64_t sample, uint64_t position) {
    for (int64_t col = 0; col < cols; col += kPerDraw) {
      const uint64_t index = position * draws + static_cast<uint64_t>(col / kPerDraw);
      const auto bits = random_bits(streams.key, sample, index);
      const int64_t start = row * cols + col;
      put_gradient(y.from(start), std::min(kPerDraw, cols - col),
                   [&](int64_t i) { return x[start + i] * factor(bits[static_cast<size_t>(i)]); });
    }
  });
}

}  // namespace

template <class T>
void dropout(int64_t cols, const RowStreams& streams, double probability, const T* x,
             const Gradient<T>& y) {
  const auto threshold = static_cast<uint64_t>(probability * 0x1.0p32);
  const T kept = static_cast<T>(1.0 / (1.0 - probability));
  multiply_randomly(cols, streams, x, y,
                    [=](uint32_t bits) { return bits >= threshold ? kept : T{0}; });
}

template <class T>
void jitter(int64_t cols, const RowStreams& streams, double epsilon, const T* x,
            const Gradient<T>& y) {
  multiply_randomly(cols, streams, x, y, [=](uint32_t bits) {
    return static_cast<T>(1.0 - epsilon + 2.0 * epsilon * (static_cast<double>(bits) * 0x1.0p-32));
  });
}

template <class T>
void normal_noise(int64_t cols, const RowStreams& streams, T* y) {
  for_each_row(cols, streams, [&](int64_t row, uint64_t sample, uint64_t position) {
    for (int64_t col = 0; col < cols; ++col) {
      const uint64_t index = position * static_cast<uint64_t>(cols) + static_cast<uint64_t>(col);
      y[row * cols + col] = static_cast<T>(normal(streams.key, sample, index));
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                                              \
  template void dropout(int64_t, const RowStreams&, double, const T*, const Gradient<T>&); \
  template void jitter(int64_t, const RowStreams&, double, const T*, const Gradient<T>&);  \
  template void normal_noise(int64_t, const RowStreams&, T*);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
