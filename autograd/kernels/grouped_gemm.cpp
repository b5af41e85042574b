#include "autograd/kernels/grouped_gemm.h"

#include <algorithm>

#include "autograd/kernels/gemm.h"
#include "autograd/support/arena.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

/// Rows of an expert that one tile takes: enough that packing its weights is small beside the
/// product.
constexpr int64_t kTileRows = 256;
/// Rows of dW that one tile takes.
constexpr int64_t kTileOut = 128;

/// A piece of work: rows begin .. end-1 of expert e.
struct Tile {
  int64_t expert;
  int64_t begin;
  int64_t end;
};

/// Row tiles of all experts, largest first: the last ones handed out are short.
template <class Body>
void for_each_row_tile(const Groups& groups, Body&& body) {
  int64_t count = 0;
  for (int64_t e = 0; e < groups.E; ++e) {
    count += ceil_div(groups.offsets[e + 1] - groups.offsets[e], kTileRows);
  }
  ArenaScope scratch(thread_arena());
  Tile* tiles = scratch.allocate<Tile>(count);
  int64_t next = 0;
  for (int64_t e = 0; e < groups.E; ++e) {
    for (int64_t begin = groups.offsets[e]; begin < groups.offsets[e + 1]; begin += kTileRows) {
      tiles[next++] = {e, begin, std::min<int64_t>(begin + kTileRows, groups.offsets[e + 1])};
    }
  }
  std::stable_sort(tiles, tiles + count,
                   [](const Tile& a, const Tile& b) { return a.end - a.begin > b.end - b.begin; });
  parallel_for(count, [&](int64_t tile) { body(tiles[tile]); });
}

}  // namespace

template <class T>
void grouped_gemm(const Groups& groups, const T* x, const T* weight, T* y) {
  const auto [E, offsets, I, O] = groups;
  for_each_row_tile(groups, [=](const Tile& tile) {
    gemm_serial<T>({tile.end - tile.begin, O, I}, {x + tile.begin * I, I},
                   {weight + tile.expert * O * I, I, true}, {y + tile.begin * O, O});
  });
}

template <class T>
void grouped_gemm_grad_x(const Groups& groups, const T* grad_y, const T* weight,
                         const Gradient<T>& grad_x) {
  const auto [E, offsets, I, O] = groups;
  const T beta = grad_x.accumulate ? T{1} : T{0};
  for_each_row_tile(groups, [&, I = I, O = O](const Tile& tile) {
    gemm_serial<T>({tile.end - tile.begin, I, O}, {grad_y + tile.begin * O, O},
                   {weight + tile.expert * O * I, I},
                   {grad_x.data + tile.begin * I, I, T{1}, beta});
  });
}

template <class T>
void grouped_gemm_grad_weight(const Groups& groups, const T* grad_y, const T* x,
                              const Gradient<T>& grad_weight) {
  const auto [E, offsets, I, O] = groups;
  const T beta = grad_weight.accumulate ? T{1} : T{0};
  const int64_t blocks = ceil_div(O, kTileOut);
  parallel_for(E * blocks, [&, offsets = offsets, I = I, O = O](int64_t tile) {
    const int64_t e = tile / blocks;
    const int64_t begin = tile % blocks * kTileOut;
    const int64_t rows = offsets[e + 1] - offsets[e];
    if (rows == 0 && grad_weight.accumulate) return;
    gemm_serial<T>({std::min(kTileOut, O - begin), I, rows},
                   {grad_y + offsets[e] * O + begin, O, true}, {x + offsets[e] * I, I},
                   {grad_weight.data + (e * O + begin) * I, I, T{1}, beta});
  });
}

#define SLUICE_INSTANTIATE(T)                                                                  \
  template void grouped_gemm<T>(const Groups&, const T*, const T*, T*);                        \
  template void grouped_gemm_grad_x<T>(const Groups&, const T*, const T*, const Gradient<T>&); \
  template void grouped_gemm_grad_weight<T>(const Groups&, const T*, const T*, const Gradient<T>&)
SLUICE_INSTANTIATE(float);
SLUICE_INSTANTIATE(double);
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
