#include "autograd/kernels/gemm.h"

#include <algorithm>
#include <limits>

#include "autograd/kernels/gemm_micro.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

// Rows of A packed at a time: 266 x 512 f32 are half of an L2 of 1 MiB, and each panel of B that
// passes through L1 serves 19 register tiles. A few more than 256 and 512 need.
constexpr int64_t kBlockRows = 266 / kTileRows * kTileRows;
// Up to this many rows, all tiles have all rows: A is packed once for all of them, and B in
// passing, panel by panel in L1. More rows are cut, and then B is packed once for all.
constexpr int64_t kFewRows = 10 * kTileRows;
// Elements of B packed at a time for all tiles: 4 MiB of f32, about a core's share of L3 twice.
constexpr int64_t kSharedElements = int64_t{1} << 20;
// A part of C smaller than this is not worth another thread: about 20 microseconds of one core.
constexpr double kFlopsPerTile = 2e6;
// Tiles for each thread: the last ones to end are short, though threads are not equally fast.
constexpr int64_t kTilesPerThread = 16;
// Packing its rows of A costs a tile as much as so many columns of C.
constexpr int64_t kPackingColumns = 12;
// Elements below which packing A is not worth another thread.
constexpr int64_t kSerialPacking = int64_t{1} << 17;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

struct Range {
  int64_t begin;
  int64_t end;
  [[nodiscard]] int64_t size() const { return end - begin; }
};

/// op(A) as it lies in memory, or, packed, all its rows: then depth k starts at packed + k *
/// padded_rows.
template <class T>
struct LeftOperand {
  GemmOperand<T> plain{};
  const T* packed = nullptr;
  int64_t padded_rows = 0;
};

/// op(B) as it lies in memory, or already packed: then `packed` holds depths from `first_depth` on,
/// in panels of `panel_depth`, from column `first_column` on.
template <class T>
struct RightOperand {
  GemmOperand<T> plain{};
  const T* packed = nullptr;
  int64_t panel_depth = 0;
  int64_t first_depth = 0;
  int64_t first_column = 0;

  [[nodiscard]] const T* panel(int64_t column, int64_t depth) const {
    return packed + (column - first_column) * panel_depth + (depth - first_depth) * kTileColumns<T>;
  }
};

template <class T>
void scale_rows(Range rows, Range columns, const GemmResult<T>& c) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    for (int64_t j = columns.begin; j < columns.end; ++j) {
      T& element = c.data[i * c.stride + j];
      element = c.beta == T{0} ? T{0} : c.beta * element;
    }
  }
}

/// Depths `depths` of the product, for at most kBlockRows rows: block by block of K, A is packed
/// into L2, then B passes panel by panel through L1, unless they are packed already. The first
/// depth of all brings in beta.
template <class T>
void multiply_block(Range rows, Range columns, Range depths, int64_t step, const LeftOperand<T>& a,
                    const RightOperand<T>& b, const GemmResult<T>& c) {
  ArenaScope scratch(thread_arena());
  T* own_a =
      a.packed != nullptr ? nullptr : scratch.allocate<T>(round_up(rows.size(), kTileRows) * step);
  T* own_b = b.packed != nullptr ? nullptr : scratch.allocate<T>(kTileColumns<T> * step);
  for (int64_t k = depths.begin; k < depths.end; k += step) {
    const int64_t K = std::min(step, depths.end - k);
    const T beta = k == 0 ? c.beta : T{1};
    if (a.packed == nullptr) pack_a(a.plain, rows.begin, rows.size(), k, K, own_a);
    const T* packed_a = a.packed == nullptr ? own_a : a.packed + k * a.padded_rows;
    for (int64_t j = columns.begin; j < columns.end; j += kTileColumns<T>) {
      const int64_t width = std::min(kTileColumns<T>, columns.end - j);
      if (b.packed == nullptr) pack_b(b.plain, j, width, k, K, own_b);
      const T* panel = b.packed == nullptr ? own_b : b.panel(j, k);
      for (int64_t i = rows.begin; i < rows.end; i += kTileRows) {
        multiply_tile<T>(std::min(kTileRows, rows.end - i), K, packed_a + (i - rows.begin) * K,
                         panel, {c.data + i * c.stride + j, c.stride, width, c.alpha, beta});
      }
    }
  }
}

template <class T>
void multiply_range(Range rows, Range columns, Range depths, int64_t step, const LeftOperand<T>& a,
                    const RightOperand<T>& b, const GemmResult<T>& c) {
  if (depths.size() == 0) return scale_rows(rows, columns, c);
  for (int64_t i = rows.begin; i < rows.end; i += kBlockRows) {
    multiply_block({i, std::min(rows.end, i + kBlockRows)}, columns, depths, step, a, b, c);
  }
}

/// How C is cut for the parallel form: the number of threads decides it, since it decides nothing
/// else.
struct Tiling {
  int64_t rows;
  int64_t columns;
};

/// The tiling by which the threads are done first. A tile packs its own rows of A, unless
/// they are packed once for all tiles: then each has all of them.
template <class T>
Tiling tiling(int64_t M, int64_t N, int64_t K) {
  const double flops =
      2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
  const int64_t threads = num_threads();
  const auto most_tiles = static_cast<int64_t>(
      std::clamp(flops / kFlopsPerTile, 1.0, static_cast<double>(kTilesPerThread * threads)));
  const bool few_rows = M <= kFewRows;
  const int64_t least_row_tiles = few_rows ? 1 : ceil_div(M, kBlockRows);
  const int64_t most_row_tiles =
      few_rows ? 1 : std::max(least_row_tiles, std::min(most_tiles, ceil_div(M, kTileRows)));
  Tiling best{};
  int64_t least_time = std::numeric_limits<int64_t>::max();
  for (int64_t row_tiles = least_row_tiles; row_tiles <= most_row_tiles; ++row_tiles) {
    const int64_t rows = few_rows ? M : round_up(ceil_div(M, row_tiles), kTileRows);
    const int64_t most_column_tiles =
        std::clamp<int64_t>(most_tiles / row_tiles, 1, ceil_div(N, kTileColumns<T>));
    for (int64_t column_tiles = 1; column_tiles <= most_column_tiles; ++column_tiles) {
      const int64_t columns = round_up(ceil_div(N, column_tiles), kTileColumns<T>);
      const int64_t tiles = ceil_div(M, rows) * ceil_div(N, columns);
      // In halves of a tile; one more is lost on average while the last tiles end.
      const int64_t time =
          (2 * ceil_div(tiles, threads) + 1) * rows * (columns + (few_rows ? 0 : kPackingColumns));
      if (time <= least_time) {
        least_time = time;
        best = {rows, columns};
      }
    }
  }
  return best;
}

template <class T>
void multiply_tiles(int64_t M, Range columns, Range depths, int64_t step, const LeftOperand<T>& a,
                    const RightOperand<T>& b, const GemmResult<T>& c) {
  const Tiling tile = tiling<T>(M, columns.size(), depths.size());
  const int64_t column_tiles = ceil_div(columns.size(), tile.columns);
  parallel_for(ceil_div(M, tile.rows) * column_tiles, [&](int64_t index) {
    const int64_t row = index / column_tiles * tile.rows;
    const int64_t column = columns.begin + index % column_tiles * tile.columns;
    multiply_range<T>({row, std::min(M, row + tile.rows)},
                      {column, std::min(columns.end, column + tile.columns)}, depths, step, a, b,
                      c);
  });
}

template <class T>
void pack_range(const GemmOperand<T>& b, Range columns, Range depths, T* packed) {
  constexpr int64_t kGroup = 4 * kTileColumns<T>;  // reads runs of 512 bytes
  parallel_for_ranges(columns.size(), kGroup, [&](int64_t begin, int64_t end) {
    pack_b(b, columns.begin + begin, end - begin, depths.begin, depths.size(),
           packed + begin * depths.size());
  });
}

/// All columns and depths, with all rows packed once.
template <class T>
void multiply_few_rows(const GemmSize& size, const GemmOperand<T>& a, const RightOperand<T>& b,
                       const GemmResult<T>& c) {
  const auto [M, N, K] = size;
  const int64_t step = depth_block(K);
  const int64_t padded_rows = round_up(M, kTileRows);
  ArenaScope scratch(thread_arena());
  T* packed = scratch.allocate<T>(padded_rows * K);
  const int64_t blocks = ceil_div(K, step);
  parallel_for_ranges(blocks, M * K < kSerialPacking ? blocks : 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin * step; k < std::min(K, end * step); k += step) {
      pack_a(a, 0, M, k, std::min(step, K - k), packed + k * padded_rows);
    }
  });
  multiply_tiles<T>(M, {0, N}, {0, K}, step, {{}, packed, padded_rows}, b, c);
}

/// body(columns, depths) for parts of op(B) small enough to stay in cache for all tiles: a block of
/// K, and as many columns as fit.
template <class T, class Body>
void for_each_part(int64_t N, int64_t K, Body&& body) {
  const int64_t depths = depth_block(K);
  const int64_t columns =
      std::max(4 * kTileColumns<T>, kSharedElements / depths / kTileColumns<T> * kTileColumns<T>);
  for (int64_t k = 0; k < K; k += depths) {
    for (int64_t j = 0; j < N; j += columns) {
      body(Range{j, std::min(N, j + columns)}, Range{k, std::min(K, k + depths)});
    }
  }
}

}  // namespace

template <class T>
void gemm(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c) {
  const auto [M, N, K] = size;
  if (M == 0 || N == 0) return;
  if (K == 0) return scale_rows({0, M}, {0, N}, c);
  if (M <= kFewRows) return multiply_few_rows<T>(size, a, {b}, c);
  for_each_part<T>(N, K, [&, M = M, K = K](Range columns, Range depths) {
    ArenaScope scratch(thread_arena());
    T* packed = scratch.allocate<T>(packed_size<T>(columns.size(), depths.size()));
    pack_range(b, columns, depths, packed);
    multiply_tiles<T>(M, columns, depths, depth_block(K), {a},
                      {{}, packed, depths.size(), depths.begin, columns.begin}, c);
  });
}

template <class T>
void gemm_serial(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c) {
  multiply_range<T>({0, size.M}, {0, size.N}, {0, size.K}, depth_block(size.K), {a}, {b}, c);
}

template <class T>
int64_t packed_size(int64_t N, int64_t K) {
  return round_up(N, kTileColumns<T>) * K;
}

template <class T>
void pack(int64_t N, int64_t K, GemmOperand<T> b, T* packed) {
  pack_range<T>(b, {0, N}, {0, K}, packed);
}

template <class T>
void gemm_packed(GemmSize size, GemmOperand<T> a, const T* packed_b, GemmResult<T> c) {
  const auto [M, N, K] = size;
  if (M == 0 || N == 0) return;
  if (K == 0) return scale_rows({0, M}, {0, N}, c);
  const RightOperand<T> b{{}, packed_b, K, 0, 0};
  if (M <= kFewRows) return multiply_few_rows(size, a, b, c);
  for_each_part<T>(N, K, [&, M = M, K = K](Range columns, Range depths) {
    multiply_tiles<T>(M, columns, depths, depth_block(K), {a}, b, c);
  });
}

#define SLUICE_INSTANTIATE(T)                                                            \
  template void gemm<T>(GemmSize, GemmOperand<T>, GemmOperand<T>, GemmResult<T>);        \
  template void gemm_serial<T>(GemmSize, GemmOperand<T>, GemmOperand<T>, GemmResult<T>); \
  template int64_t packed_size<T>(int64_t, int64_t);                                     \
  template void pack<T>(int64_t, int64_t, GemmOperand<T>, T*);                           \
  template void gemm_packed<T>(GemmSize, GemmOperand<T>, const T*, GemmResult<T>);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
