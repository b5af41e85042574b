#include "autograd/kernels/grouped_gemm.h"

#include <algorithm>

#include "autograd/kernels/gemm_micro.h"
#include "autograd/support/arena.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

/// Most rows of a tile: packing its part of the weight costs about a twentieth of the product.
constexpr int64_t kMostRows = 266;
/// Below this many tiles, columns are cut too, into parts of at least kLeastColumns (packing the
/// rows again for each costs up to a tenth).
constexpr int64_t kEnoughTiles = 64;
constexpr int64_t kLeastColumns = 128;
/// Below this many tiles even so (the weight gradient of one expert that has all rows), rows are cut
/// smaller, down to kLeastRows.
constexpr int64_t kFewTiles = 8;
constexpr int64_t kLeastRows = 64;

/// Rows of each tile where `rows` are cut into parts of at most `most`: equal ones, in whole register
/// tiles.
int64_t rows_per_tile(int64_t rows, int64_t most) {
  const int64_t tiles = ceil_div(rows, most);
  return tiles <= 1 ? rows : ceil_div(ceil_div(rows, tiles), kTileRows) * kTileRows;
}

/// A piece of work: rows x columns of one expert's result.
struct Tile {
  int64_t expert;
  int64_t first_row;
  int64_t end_row;
  int64_t first_column;
  int64_t end_column;
  int64_t work;
  int64_t place;  // in the order of making, which std::stable_sort would take memory to keep

  [[nodiscard]] int64_t rows() const { return end_row - first_row; }
  [[nodiscard]] int64_t columns() const { return end_column - first_column; }
};

/// Cuts the results of all experts, rows_of(e) x columns with sums over depth_of(e), into tiles and
/// calls body(tile) for each in parallel, those with most work first: the last ones handed out are
/// short.
template <class Rows, class Depth, class Body>
void for_each_tile(int64_t E, int64_t columns, Rows&& rows_of, Depth&& depth_of, Body&& body) {
  // An expert whose result exists but sums over nothing (depth 0) is filled with zeros: no work.
  int64_t most_rows = kMostRows;
  const auto tiles_of = [&](bool with_work) {
    int64_t tiles = 0;
    for (int64_t e = 0; e < E; ++e) {
      if (!with_work || depth_of(e) > 0) tiles += ceil_div(rows_of(e), most_rows);
    }
    return tiles;
  };
  if (tiles_of(false) == 0 || columns == 0) return;
  const int64_t working = std::max<int64_t>(1, tiles_of(true));
  const int64_t column_tiles = std::clamp<int64_t>(ceil_div(kEnoughTiles, working), 1,
                                                   std::max<int64_t>(1, columns / kLeastColumns));
  const int64_t step = ceil_div(columns, column_tiles);
  while (most_rows > kLeastRows && tiles_of(true) * ceil_div(columns, step) < kFewTiles) {
    most_rows /= 2;
  }
  const int64_t row_tiles = tiles_of(false);
  ArenaScope scratch(thread_arena());
  Tile* tiles = scratch.allocate<Tile>(row_tiles * ceil_div(columns, step));
  int64_t count = 0;
  for (int64_t e = 0; e < E; ++e) {
    const int64_t rows = rows_per_tile(rows_of(e), most_rows);
    for (int64_t row = 0; row < rows_of(e); row += rows) {
      for (int64_t column = 0; column < columns; column += step) {
        Tile tile{
            e, row,  std::min(rows_of(e), row + rows), column, std::min(columns, column + step),
            0, count};
        tile.work = tile.rows() * tile.columns() * depth_of(e);
        tiles[count++] = tile;
      }
    }
  }
  std::sort(tiles, tiles + count, [](const Tile& a, const Tile& b) {
    return a.work != b.work ? a.work > b.work : a.place < b.place;
  });
  parallel_for(count, [&](int64_t i) { body(tiles[i]); });
}

}  // namespace

template <class T>
void grouped_gemm(const Groups& groups, const T* x, std::type_identity_t<Stored<T>> weight, T* y) {
  const int64_t I = groups.I;
  const int64_t O = groups.O;
  for_each_tile(
      groups.E, O, [&](int64_t e) { return groups.rows(e); }, [&](int64_t) { return I; },
      [&](const Tile& tile) {
        const int64_t row = groups.offsets[tile.expert] + tile.first_row;
        gemm_serial<T>({tile.rows(), tile.columns(), I}, {x + row * I, I},
                       {weight + (tile.expert * O + tile.first_column) * I, I, true},
                       {y + row * O + tile.first_column, O});
      });
}

template <class T>
void grouped_gemm_grad_x(const Groups& groups, const T* grad_y, const T* weight,
                         const Gradient<T>& grad_x) {
  const int64_t I = groups.I;
  const int64_t O = groups.O;
  const T beta = grad_x.accumulate ? T{1} : T{0};
  for_each_tile(
      groups.E, I, [&](int64_t e) { return groups.rows(e); }, [&](int64_t) { return O; },
      [&](const Tile& tile) {
        const int64_t row = groups.offsets[tile.expert] + tile.first_row;
        gemm_serial<T>({tile.rows(), tile.columns(), O}, {grad_y + row * O, O},
                       {weight + tile.expert * O * I + tile.first_column, I},
                       {grad_x.data + row * I + tile.first_column, I, T{1}, beta});
      });
}

template <class T>
void grouped_gemm_grad_weight(const Groups& groups, const ExpertRows<T>& grad_y,
                              const ExpertRows<T>& x, const Gradient<T>& grad_weight) {
  const int64_t I = groups.I;
  const int64_t O = groups.O;
  const T beta = grad_weight.accumulate ? T{1} : T{0};
  // Columns from `column` on of the rows from `row` on.
  const auto part = [](const ExpertRows<T>& rows, int64_t row, int64_t column, int64_t width,
                       bool transposed) {
    return rows.index == nullptr
               ? GemmOperand<T>{rows.data + row * width + column, width, transposed}
               : GemmOperand<T>{rows.data + column, width, transposed, rows.index + row};
  };
  for_each_tile(
      groups.E, I, [&](int64_t e) { return groups.rows(e) == 0 && grad_weight.accumulate ? 0 : O; },
      [&](int64_t e) { return groups.rows(e); },
      [&](const Tile& tile) {
        const int64_t row = groups.offsets[tile.expert];
        gemm_serial<T>(
            {tile.rows(), tile.columns(), groups.rows(tile.expert)},
            part(grad_y, row, tile.first_row, O, true), part(x, row, tile.first_column, I, false),
            {grad_weight.data + (tile.expert * O + tile.first_row) * I + tile.first_column, I, T{1},
             beta});
      });
}

#define SLUICE_INSTANTIATE(T)                                                                  \
  template void grouped_gemm<T>(const Groups&, const T*, Stored<T>, T*);                       \
  template void grouped_gemm_grad_x<T>(const Groups&, const T*, const T*, const Gradient<T>&); \
  template void grouped_gemm_grad_weight<T>(const Groups&, const ExpertRows<T>&,               \
                                            const ExpertRows<T>&, const Gradient<T>&)
SLUICE_INSTANTIATE(float);
SLUICE_INSTANTIATE(double);
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
