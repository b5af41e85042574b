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
// Elements of all right operands up to which products are joined: 1.5 MiB of f32 stay in L2 beside a
// block of A. With more, reading them again for every block of rows costs what is saved.
constexpr int64_t kCachedElements = 3 << 17;
// A part of C smaller than this is not worth another thread: about 20 microseconds of one core.
constexpr double kFlopsPerTile = 2e6;
// Reading and packing an element of B takes a core as long as multiplying it with so many rows.
constexpr int64_t kRowsOfReading = 20;
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
  [[nodiscard]] bool empty() const { return end <= begin; }
  [[nodiscard]] Range common(Range other) const {
    return {std::max(begin, other.begin), std::min(end, other.end)};
  }
};

/// One left operand: its rows among those of all, from a multiple of kTileRows on.
template <class T>
struct LeftPart {
  Range rows;
  GemmOperand<T> plain;
};

/// One right operand: its columns among those of all, from a multiple of kTileColumns on.
template <class T>
struct RightPart {
  Range columns;
  GemmOperand<T> plain;
};

/// All rows of the left operands, packed: depth k starts at data + k * padded_rows.
template <class T>
struct PackedLeft {
  const T* data = nullptr;
  int64_t padded_rows = 0;
};

/// The right operands from `first_column` of all on, packed in panels of `panel_depth`, which hold
/// depths from `first_depth` on.
template <class T>
struct PackedRight {
  const T* data = nullptr;
  int64_t panel_depth = 0;
  int64_t first_depth = 0;
  int64_t first_column = 0;

  [[nodiscard]] const T* panel(int64_t column, int64_t depth) const {
    return data + (column - first_column) * panel_depth + (depth - first_depth) * kTileColumns<T>;
  }
};

/// Products of one depth that share an operand: the left or the right list has one entry, and
/// results[l + r] is that of left[l] and right[r]. Where an operand is packed, its part need not be
/// in memory as it was.
template <class T>
struct Products {
  std::span<const LeftPart<T>> left;
  std::span<const RightPart<T>> right;
  const GemmResult<T>* results;
  int64_t step;  // depths of one chain
  PackedLeft<T> packed_left{};
  PackedRight<T> packed_right{};
};

template <class T>
void scale_rows(int64_t rows, int64_t columns, const GemmResult<T>& c) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      T& element = c.data[i * c.stride + j];
      element = c.beta == T{0} ? T{0} : c.beta * element;
    }
  }
}

/// Depths `depths` of the products, for at most kBlockRows rows of one left operand: block by block
/// of K, A is packed into L2, then B passes panel by panel through L1, unless they are packed
/// already. The first depth of all brings in beta.
template <class T>
void multiply_block(const Products<T>& products, size_t l, Range rows, Range columns,
                    Range depths) {
  const int64_t step = products.step;
  const LeftPart<T>& left = products.left[l];
  const PackedLeft<T>& packed_left = products.packed_left;
  ArenaScope scratch(thread_arena());
  T* own_a = packed_left.data != nullptr
                 ? nullptr
                 : scratch.allocate<T>(round_up(rows.size(), kTileRows) * step);
  T* own_b =
      products.packed_right.data != nullptr ? nullptr : scratch.allocate<T>(kTileColumns<T> * step);
  const int64_t row = rows.begin - left.rows.begin;
  for (int64_t k = depths.begin; k < depths.end; k += step) {
    const int64_t K = std::min(step, depths.end - k);
    if (own_a != nullptr) pack_a(left.plain, row, rows.size(), k, K, own_a);
    const T* packed_a =
        own_a != nullptr ? own_a : packed_left.data + k * packed_left.padded_rows + row * K;
    for (size_t r = 0; r < products.right.size(); ++r) {
      const RightPart<T>& right = products.right[r];
      const GemmResult<T>& c = products.results[l + r];
      const T beta = k == 0 ? c.beta : T{1};
      const Range own = columns.common(right.columns);
      for (int64_t j = own.begin; j < own.end; j += kTileColumns<T>) {
        const int64_t width = std::min(kTileColumns<T>, own.end - j);
        const int64_t column = j - right.columns.begin;
        if (own_b != nullptr) pack_b(right.plain, column, width, k, K, own_b);
        const T* panel = own_b != nullptr ? own_b : products.packed_right.panel(j, k);
        for (int64_t i = 0; i < rows.size(); i += kTileRows) {
          multiply_tile<T>(
              std::min(kTileRows, rows.size() - i), K, packed_a + i * K, panel,
              {c.data + (row + i) * c.stride + column, c.stride, width, c.alpha, beta});
        }
      }
    }
  }
}

template <class T>
void multiply_range(const Products<T>& products, Range rows, Range columns, Range depths) {
  for (size_t l = 0; l < products.left.size(); ++l) {
    const Range own = rows.common(products.left[l].rows);
    for (int64_t i = own.begin; i < own.end; i += kBlockRows) {
      multiply_block(products, l, {i, std::min(own.end, i + kBlockRows)}, columns, depths);
    }
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
  const double flops = 2.0 * static_cast<double>(std::max(M, kRowsOfReading)) *
                       static_cast<double>(N) * static_cast<double>(K);
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
void multiply_tiles(const Products<T>& products, Range columns, Range depths) {
  const int64_t M = products.left.back().rows.end;
  const Tiling tile = tiling<T>(M, columns.size(), depths.size());
  const int64_t column_tiles = ceil_div(columns.size(), tile.columns);
  parallel_for(ceil_div(M, tile.rows) * column_tiles, [&](int64_t index) {
    const int64_t row = index / column_tiles * tile.rows;
    const int64_t column = columns.begin + index % column_tiles * tile.columns;
    multiply_range<T>(products, {row, std::min(M, row + tile.rows)},
                      {column, std::min(columns.end, column + tile.columns)}, depths);
  });
}

/// Packs columns of all right operands, in parallel.
template <class T>
void pack_range(std::span<const RightPart<T>> right, Range columns, Range depths, T* packed) {
  constexpr int64_t kGroup = 4 * kTileColumns<T>;  // reads runs of 512 bytes
  parallel_for_ranges(columns.size(), kGroup, [&](int64_t begin, int64_t end) {
    const Range group{columns.begin + begin, columns.begin + end};
    for (const RightPart<T>& part : right) {
      const Range own = group.common(part.columns);
      if (own.empty()) continue;
      pack_b(part.plain, own.begin - part.columns.begin, own.size(), depths.begin, depths.size(),
             packed + (own.begin - columns.begin) * depths.size());
    }
  });
}

/// All columns and depths, with all rows of the one left operand packed once.
template <class T>
void multiply_few_rows(Products<T> products, int64_t N, int64_t K) {
  const int64_t M = products.left[0].rows.size();
  const int64_t step = products.step;
  const int64_t padded_rows = round_up(M, kTileRows);
  ArenaScope scratch(thread_arena());
  T* packed = scratch.allocate<T>(padded_rows * K);
  const int64_t blocks = ceil_div(K, step);
  parallel_for_ranges(blocks, M * K < kSerialPacking ? blocks : 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin * step; k < std::min(K, end * step); k += step) {
      pack_a(products.left[0].plain, 0, M, k, std::min(step, K - k), packed + k * padded_rows);
    }
  });
  products.packed_left = {packed, padded_rows};
  multiply_tiles<T>(products, {0, N}, {0, K});
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

/// The products over K > 0, in parallel; the right operands are not packed.
template <class T>
void multiply(Products<T> products, int64_t K) {
  const int64_t N = products.right.back().columns.end;
  if (products.left.size() == 1 && products.left[0].rows.size() <= kFewRows) {
    return multiply_few_rows<T>(products, N, K);
  }
  for_each_part<T>(N, K, [&](Range columns, Range depths) {
    ArenaScope scratch(thread_arena());
    T* packed = scratch.allocate<T>(packed_size<T>(columns.size(), depths.size()));
    pack_range(products.right, columns, depths, packed);
    products.packed_right = {packed, depths.size(), depths.begin, columns.begin};
    multiply_tiles<T>(products, columns, depths);
  });
}

/// The results in order, for Products.
template <class T>
GemmResult<T>* results_of(std::span<const JointProduct<T>> products, ArenaScope& scratch) {
  auto* results = scratch.allocate<GemmResult<T>>(std::ssize(products));
  for (size_t i = 0; i < products.size(); ++i) results[i] = products[i].c;
  return results;
}

/// Where operands of these sizes lie among all, each from a multiple of `unit` on: place(i, range).
template <class T, class Place>
void lay_out(std::span<const JointProduct<T>> products, int64_t unit, Place&& place) {
  int64_t first = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    place(i, Range{first, first + products[i].n});
    first = round_up(first + products[i].n, unit);
  }
}

}  // namespace

template <class T>
void gemm(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c) {
  const auto [M, N, K] = size;
  if (M == 0 || N == 0) return;
  if (K == 0) return scale_rows(M, N, c);
  const LeftPart<T> left{{0, M}, a};
  const RightPart<T> right{{0, N}, b};
  multiply<T>({{&left, 1}, {&right, 1}, &c, depth_block(K)}, K);
}

template <class T>
void gemm_serial(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c) {
  const auto [M, N, K] = size;
  if (K == 0) return scale_rows(M, N, c);
  const LeftPart<T> left{{0, M}, a};
  const RightPart<T> right{{0, N}, b};
  multiply_range<T>({{&left, 1}, {&right, 1}, &c, depth_block(K)}, {0, M}, {0, N}, {0, K});
}

template <class T>
void gemm_joint_columns(int64_t M, int64_t K, GemmOperand<T> a,
                        std::span<const JointProduct<T>> products) {
  if (M == 0 || products.empty()) return;
  if (K == 0) {
    for (const JointProduct<T>& product : products) scale_rows(M, product.n, product.c);
    return;
  }
  int64_t N = 0;
  for (const JointProduct<T>& product : products) N += product.n;
  if (M > kFewRows && N * K > kCachedElements) {
    for (const JointProduct<T>& product : products) {
      gemm<T>({M, product.n, K}, a, product.operand, product.c);
    }
    return;
  }
  ArenaScope scratch(thread_arena());
  auto* right = scratch.allocate<RightPart<T>>(std::ssize(products));
  lay_out(products, kTileColumns<T>, [&](size_t i, Range columns) {
    right[i] = {columns, products[i].operand};
  });
  const LeftPart<T> left{{0, M}, a};
  multiply<T>({{&left, 1}, {right, products.size()}, results_of(products, scratch), depth_block(K)},
              K);
}

template <class T>
void gemm_joint_rows(int64_t N, int64_t K, std::span<const JointProduct<T>> products,
                     GemmOperand<T> b) {
  if (N == 0 || products.empty()) return;
  if (K == 0) {
    for (const JointProduct<T>& product : products) scale_rows(product.n, N, product.c);
    return;
  }
  ArenaScope scratch(thread_arena());
  auto* left = scratch.allocate<LeftPart<T>>(std::ssize(products));
  lay_out(products, kTileRows, [&](size_t i, Range rows) {
    left[i] = {rows, products[i].operand};
  });
  const RightPart<T> right{{0, N}, b};
  multiply<T>({{left, products.size()}, {&right, 1}, results_of(products, scratch), depth_block(K)},
              K);
}

template <class T>
void gemm_sum(int64_t M, int64_t N, std::span<const GemmTerm<T>> terms, GemmResult<T> c) {
  if (M == 0 || N == 0) return;
  int64_t depth = 0;
  for (const GemmTerm<T>& term : terms) depth += term.K;
  if (depth == 0) return scale_rows(M, N, c);
  if (M <= kFewRows || N * depth > kCachedElements) {
    for (const GemmTerm<T>& term : terms) {
      if (term.K == 0) continue;
      gemm<T>({M, N, term.K}, term.a, term.b, c);
      c.beta = T{1};
    }
    return;
  }
  // All terms, packed one behind the other.
  ArenaScope scratch(thread_arena());
  T* packed = scratch.allocate<T>(packed_size<T>(N, depth));
  const auto for_each_term = [&](auto&& body) {
    T* own = packed;
    T beta = c.beta;
    for (const GemmTerm<T>& term : terms) {
      if (term.K == 0) continue;
      body(term, own, beta);
      own += packed_size<T>(N, term.K);
      beta = T{1};
    }
  };
  for_each_term([&](const GemmTerm<T>& term, T* own, T) { pack<T>(N, term.K, term.b, own); });
  const Tiling tile = tiling<T>(M, N, depth);
  const int64_t column_tiles = ceil_div(N, tile.columns);
  parallel_for(ceil_div(M, tile.rows) * column_tiles, [&](int64_t index) {
    const int64_t row = index / column_tiles * tile.rows;
    const int64_t column = index % column_tiles * tile.columns;
    // A block of rows meets all terms while its part of C is in cache.
    for (int64_t i = row; i < std::min(M, row + tile.rows); i += kBlockRows) {
      const Range rows{i, std::min({M, row + tile.rows, i + kBlockRows})};
      for_each_term([&](const GemmTerm<T>& term, const T* own, T beta) {
        const LeftPart<T> left{{0, M}, term.a};
        const RightPart<T> right{{0, N}, {}};
        const GemmResult<T> result{c.data, c.stride, c.alpha, beta};
        const Products<T> product{{&left, 1},          {&right, 1}, &result,
                                  depth_block(term.K), {},          {own, term.K, 0, 0}};
        multiply_block(product, 0, rows, {column, std::min(N, column + tile.columns)}, {0, term.K});
      });
    }
  });
}

template <class T>
int64_t packed_size(int64_t N, int64_t K) {
  return round_up(N, kTileColumns<T>) * K;
}

template <class T>
void pack(int64_t N, int64_t K, GemmOperand<T> b, T* packed) {
  const RightPart<T> right{{0, N}, b};
  pack_range<T>({&right, 1}, {0, N}, {0, K}, packed);
}

template <class T>
void gemm_packed(GemmSize size, GemmOperand<T> a, const T* packed_b, GemmResult<T> c) {
  const auto [M, N, K] = size;
  if (M == 0 || N == 0) return;
  if (K == 0) return scale_rows(M, N, c);
  const LeftPart<T> left{{0, M}, a};
  const RightPart<T> right{{0, N}, {}};
  const Products<T> product{{&left, 1}, {&right, 1}, &c, depth_block(K), {}, {packed_b, K, 0, 0}};
  if (M <= kFewRows) return multiply_few_rows<T>(product, N, K);
  for_each_part<T>(
      N, K, [&](Range columns, Range depths) { multiply_tiles<T>(product, columns, depths); });
}

#define SLUICE_INSTANTIATE(T)                                                               \
  template void gemm<T>(GemmSize, GemmOperand<T>, GemmOperand<T>, GemmResult<T>);           \
  template void gemm_serial<T>(GemmSize, GemmOperand<T>, GemmOperand<T>, GemmResult<T>);    \
  template void gemm_joint_columns<T>(int64_t, int64_t, GemmOperand<T>,                     \
                                      std::span<const JointProduct<T>>);                    \
  template void gemm_joint_rows<T>(int64_t, int64_t, std::span<const JointProduct<T>>,      \
                                   GemmOperand<T>);                                         \
  template void gemm_sum<T>(int64_t, int64_t, std::span<const GemmTerm<T>>, GemmResult<T>); \
  template int64_t packed_size<T>(int64_t, int64_t);                                        \
  template void pack<T>(int64_t, int64_t, GemmOperand<T>, T*);                              \
  template void gemm_packed<T>(GemmSize, GemmOperand<T>, const T*, GemmResult<T>);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
