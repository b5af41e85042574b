#include "autograd/kernels/reduce.h"

#include <algorithm>

#include "autograd/kernels/parts.h"

namespace sluice::kernels {
namespace {

/// Independent sums of one block: enough to hide the latency of an addition in f64.
constexpr int64_t kLanes = 32;

/// Blocks that one thread sums side by side: a core gets less than half as much from memory when it
/// reads one array from front to back.
constexpr int64_t kStreams = 4;
/// Elements of one block that are summed before those of the next.
constexpr int64_t kTurn = 256;
static_assert(kTurn % kLanes == 0 && kElementBlock % kTurn == 0);

/// Adds term(x[i]) for i in [0, n) in f64; element i goes to lane i mod kLanes.
template <class T, class Term>
void add_to_lanes(int64_t n, const T* x, Term&& term, double (&lanes)[kLanes]) {
  double sums[kLanes];
  std::copy_n(lanes, kLanes, sums);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += term(static_cast<double>(x[i + lane]));
    }
  }
  for (int64_t lane = 0; i + lane < n; ++lane) sums[lane] += term(static_cast<double>(x[i + lane]));
  std::copy_n(sums, kLanes, lanes);
}

/// The lanes added as a tree.
double sum_of_lanes(double (&lanes)[kLanes]) {
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

template <class T, class Term>
double sum_in_double(int64_t n, const T* x, Term&& term) {
  double lanes[kLanes] = {};
  add_to_lanes(n, x, term, lanes);
  return sum_of_lanes(lanes);
}

/// The same for whole blocks of kElementBlock elements, in turns.
template <class T, class Term>
void sum_blocks_in_double(const T* const (&x)[kStreams], Term&& term, double* sums) {
  double lanes[kStreams][kLanes] = {};
  for (int64_t i = 0; i < kElementBlock; i += kTurn) {
    for (int64_t k = 0; k < kStreams; ++k) add_to_lanes(kTurn, x[k] + i, term, lanes[k]);
  }
  for (int64_t k = 0; k < kStreams; ++k) sums[k] = sum_of_lanes(lanes[k]);
}

double square(double x) { return x * x; }

}  // namespace

template <class T>
double sum(int64_t n, const T* x) {
  return parallel_sum<double>(n, kElementBlock, [x](int64_t begin, int64_t end) {
    return sum_in_double(end - begin, x + begin, [](double value) { return value; });
  });
}

template <class T>
void sums_of_squares(std::span<const std::span<const T>> arrays, std::span<double> sums) {
  ArenaScope scratch(thread_arena());
  const PartBlocks blocks(scratch, std::ssize(arrays), [&](int64_t part) {
    return std::ssize(arrays[static_cast<size_t>(part)]);
  });
  double* of_block = scratch.allocate<double>(blocks.count());
  parallel_for_ranges(blocks.count(), kStreams, [&](int64_t first, int64_t last) {
    const T* x[kStreams] = {};
    bool are_whole = last - first == kStreams;
    for (int64_t index = first; index < last; ++index) {
      const PartBlock b = blocks.at(index);
      x[index - first] = arrays[static_cast<size_t>(b.part)].data() + b.begin;
      are_whole = are_whole && b.end - b.begin == kElementBlock;
    }
    if (are_whole) {
      sum_blocks_in_double(x, square, of_block + first);
      return;
    }
    for (int64_t index = first; index < last; ++index) {
      const PartBlock b = blocks.at(index);
      of_block[index] = sum_in_double(b.end - b.begin, x[index - first], square);
    }
  });
  for (size_t part = 0; part < arrays.size(); ++part) {
    const auto index = static_cast<int64_t>(part);
    sums[part] = 0.0;
    for (int64_t b = blocks.first(index); b < blocks.first(index + 1); ++b) {
      sums[part] += of_block[b];
    }
  }
}

template <class T>
double sum_of_squares(int64_t n, const T* x) {
  const std::span<const T> array(x, static_cast<size_t>(n));
  double result = 0.0;
  sums_of_squares<T>(std::span(&array, 1), std::span(&result, 1));
  return result;
}

template <class T>
void sum_columns(int64_t rows, int64_t cols, const T* x, T* y) {
  parallel_rows(rows, cols, [&](int64_t row) { y[row] = row_sum(cols, x + row * cols); });
}

template <class T>
void sum_rows(int64_t rows, int64_t cols, const T* x, const Gradient<T>& y) {
  ArenaScope scratch(thread_arena());
  const ColumnSums<T> sums(scratch, rows, cols, y);
  sums.for_each_block([&](int64_t begin, int64_t end, T* partial) {
    for (int64_t row = begin; row < end; ++row) {
      const T* row_x = x + row * cols;
      for (int64_t col = 0; col < cols; ++col) partial[col] += row_x[col];
    }
  });
  sums.finish();
}

template <class T>
void normalise_rows(int64_t rows, int64_t cols, const NormaliseRows<T>& args) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* x = args.x + row * cols;
    T* y = args.y + row * cols;
    const T total = row_sum(cols, x) + static_cast<T>(args.epsilon);
    for (int64_t col = 0; col < cols; ++col) y[col] = x[col] / total;
    args.total[row] = total;
  });
}

template <class T>
void normalise_rows_backward(int64_t rows, int64_t cols, const NormaliseRowsBackward<T>& args) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* y = args.y + row * cols;
    const T* grad_y = args.grad_y + row * cols;
    const T total = args.total[row];
    const T dot = row_dot(cols, grad_y, y);
    put_gradient(args.grad_x.from(row * cols), cols,
                 [&](int64_t col) { return (grad_y[col] - dot) / total; });
  });
}

#define SLUICE_INSTANTIATE(T)                                                            \
  template double sum(int64_t, const T*);                                                \
  template double sum_of_squares(int64_t, const T*);                                     \
  template void sums_of_squares(std::span<const std::span<const T>>, std::span<double>); \
  template void sum_columns(int64_t, int64_t, const T*, T*);                             \
  template void sum_rows(int64_t, int64_t, const T*, const Gradient<T>&);                \
  template void normalise_rows(int64_t, int64_t, const NormaliseRows<T>&);               \
  template void normalise_rows_backward(int64_t, int64_t, const NormaliseRowsBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
