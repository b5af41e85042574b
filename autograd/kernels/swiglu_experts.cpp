#include "autograd/kernels/swiglu_experts.h"

#include <algorithm>
#include <array>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/lanes.h"
#include "autograd/kernels/vector_math.h"
#include "autograd/support/arena.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

/// Most panels of lanes that share one packing of the weights: packing costs a twentieth of what it
/// serves.
constexpr int64_t kMostPanels = 8;
/// Elements of a block's operands, for which 1.5 MiB of f32 are a core's L2 and some of its L3.
constexpr int64_t kBlockElements = 3 << 17;
/// Blocks for each thread, where there are rows enough.
constexpr int64_t kBlocksPerThread = 8;

/// Rows of all experts up to which most lanes of a panel would be empty.
constexpr int64_t kFewRows = 8;

/// Rows of one expert that share one packing of its weights.
struct Block {
  int64_t expert;
  int64_t first;  // among all rows
  int64_t rows;
};

/// F in parts for which h stays in cache, as long as chains of sums are. A panel's part of the hidden
/// tensors and its rows of the gradients are the same stretch of memory: with a single part one can
/// take the other's place.
template <class T>
struct HiddenParts {
  explicit HiddenParts(int64_t F_) : F(F_), step(std::max<int64_t>(1, depth_block(F_))) {}
  int64_t F;
  int64_t step;
  [[nodiscard]] bool single() const { return step >= F; }
  [[nodiscard]] int64_t lanes() const { return step * kLanes<T>; }
};

template <class T>
int64_t panels_per_block(const ExpertsShape& shape) {
  const int64_t per_panel = (2 * shape.D + HiddenParts<T>(shape.F).step) * kLanes<T>;
  int64_t panels = std::clamp<int64_t>(kBlockElements / per_panel, 2, kMostPanels);
  const int64_t wanted = kBlocksPerThread * num_threads();
  while (panels > 1 && ceil_div(shape.rows(), panels * kLanes<T>) < wanted) panels /= 2;
  return panels;
}

/// body(block) for all rows, in parallel, the largest blocks first.
template <class T, class Body>
void for_each_block(const ExpertsShape& shape, Body&& body) {
  const int64_t most_rows = panels_per_block<T>(shape) * kLanes<T>;
  int64_t most_blocks = 0;
  for (int64_t e = 0; e < shape.E; ++e) most_blocks += ceil_div(shape.rows(e), most_rows);
  ArenaScope scratch(thread_arena());
  Block* blocks = scratch.allocate<Block>(most_blocks);
  int64_t count = 0;
  for (int64_t e = 0; e < shape.E; ++e) {
    if (shape.rows(e) == 0) continue;
    // Equal blocks, in whole panels.
    const int64_t rows_each = ceil_div(shape.rows(e), ceil_div(shape.rows(e), most_rows));
    const int64_t rows = ceil_div(rows_each, kLanes<T>) * kLanes<T>;
    for (int64_t row = shape.offsets[e]; row < shape.offsets[e + 1]; row += rows) {
      blocks[count++] = {e, row, std::min<int64_t>(rows, shape.offsets[e + 1] - row)};
    }
  }
  // By rows, then in order: std::stable_sort would allocate.
  std::sort(blocks, blocks + count, [](const Block& a, const Block& b) {
    return a.rows != b.rows ? a.rows > b.rows : a.first < b.first;
  });
  parallel_for(count, [&](int64_t i) { body(blocks[i]); });
}

/// Rows of a block that lie side by side, and where they stand.
struct LanePanel {
  int64_t first;
  int64_t count;
  int64_t lanes;  // that are computed: whole registers; those beyond hold anything
};
template <class T>
LanePanel panel_of(const Block& block, int64_t index) {
  const int64_t first = index * kLanes<T>;
  const int64_t count = std::min(kLanes<T>, block.rows - first);
  return {block.first + first, count, ceil_div(count, Vec<T>::kWidth) * Vec<T>::kWidth};
}

/// Tiles packed at a time: whole lines of memory are read where a tile's part of a row is less.
constexpr int64_t kTilesAtOnce = 4;
constexpr int64_t kResultsAtOnce = kTilesAtOnce * kTileRows;

/// A part of a weight matrix, packed as the left operand: up to kResultsAtOnce results that are sums
/// over `depth`, in blocks of the chain's length.
template <class T>
struct PackedWeight {
  PackedWeight(ArenaScope& scratch, int64_t most_depth)
      : data(scratch.allocate<T>(kResultsAtOnce * most_depth)) {}

  /// Result i sums over row i of the matrix.
  void load_rows(int64_t results, int64_t depth_, const Stored<T>& weight, int64_t stride) {
    depth = depth_;
    visit_rows(weight, stride, nullptr, [&](const auto& rows) {
      pack_transposing<T, kTileRows>(results, depth, rows, data);
    });
  }
  /// Result i sums over column i of the matrix.
  void load_columns(int64_t results, int64_t depth_, const Stored<T>& weight, int64_t stride) {
    depth = depth_;
    visit_rows(weight, stride, nullptr,
               [&](const auto& rows) { pack_copying<T, kTileRows>(results, depth, rows, data); });
  }
  /// tile[i, lane] = or += sum_k weight(first + i, k) lanes[k, lane] for i < results, no more than a
  /// tile has, and lane < count; `first` is a multiple of kTileRows.
  void multiply(int64_t first, int64_t results, int64_t count, const T* lanes, bool add,
                T* tile) const {
    const T* packed = data + first * depth;
    const int64_t step = depth_block(depth);
    for (int64_t k = 0; k < depth; k += step) {
      multiply_tile<T>(results, std::min(step, depth - k), packed + k * kTileRows,
                       lanes + k * kLanes<T>,
                       {tile, kLanes<T>, count, T{1}, add || k > 0 ? T{1} : T{0}});
    }
  }

  T* data;
  int64_t depth = 0;
};

/// for (begin = 0, step, 2 step, ...): body(begin, size)
template <class Body>
void for_each_step(int64_t n, int64_t step, Body&& body) {
  for (int64_t begin = 0; begin < n; begin += step) body(begin, std::min(step, n - begin));
}

/// load(begin, size) for every kResultsAtOnce of n results, and after each of them
/// body(result, first, results) for its tiles: `result` is the tile's first of all n, `first` of those
/// loaded.
template <class Load, class Body>
void for_each_tile(int64_t n, Load&& load, Body&& body) {
  for_each_step(n, kResultsAtOnce, [&](int64_t begin, int64_t size) {
    load(begin, size);
    for_each_step(size, kTileRows,
                  [&](int64_t first, int64_t results) { body(begin + first, first, results); });
  });
}

template <class T>
T* ones(ArenaScope& scratch) {
  T* result = scratch.allocate<T>(kLanes<T>);
  std::fill_n(result, kLanes<T>, T{1});
  return result;
}

/// What comes into a block and what leaves it: [panels, D, lanes]. With a single part of F everything
/// has been read before anything is written, and one takes the other's place.
template <class T>
struct BlockRows {
  BlockRows(ArenaScope& scratch, const ExpertsShape& shape, const Block& block_)
      : block(block_),
        D(shape.D),
        parts(shape.F),
        panels(ceil_div(block.rows, kLanes<T>)),
        in(scratch.allocate<T>(panels * D * kLanes<T>)),
        out(parts.single() ? in : scratch.allocate<T>(panels * D * kLanes<T>)),
        factors(ones<T>(scratch)) {}

  [[nodiscard]] const T* in_of(int64_t panel) const { return in + panel * D * kLanes<T>; }
  [[nodiscard]] T* out_of(int64_t panel, int64_t d = 0) const {
    return out + (panel * D + d) * kLanes<T>;
  }
  /// in = the rows of x [N, D] that the block's rows are the tokens of.
  void load(const ExpertsShape& shape, const T* x) const {
    for (int64_t p = 0; p < panels; ++p) {
      const LanePanel panel = panel_of<T>(block, p);
      load_lanes<T>(
          panel.count, D, [&](int64_t lane) { return x + shape.token(panel.first + lane) * D; },
          T{1}, in + p * D * kLanes<T>);
    }
  }
  /// The block's rows of y [R, D] = or += out.
  void store(T* y, bool accumulate) const {
    for (int64_t p = 0; p < panels; ++p) {
      const LanePanel panel = panel_of<T>(block, p);
      store_lanes<T>(
          panel.count, D, out_of(p), factors,
          [&](int64_t lane) { return y + (panel.first + lane) * D; }, accumulate);
    }
  }

  Block block;
  int64_t D;
  HiddenParts<T> parts;
  int64_t panels;
  T* in;
  T* out;
  const T* factors;
};

template <class T>
void forward_block(const ExpertsShape& shape, const ExpertWeights<T>& weights, const T* x,
                   const ExpertsHidden<T>& hidden, T* y, const Block& block) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  const int64_t D = shape.D;
  const int64_t F = shape.F;
  ArenaScope scratch(thread_arena());
  const BlockRows<T> rows(scratch, shape, block);
  const HiddenParts<T>& parts = rows.parts;
  const int64_t panels = rows.panels;
  T* h = scratch.allocate<T>(panels * parts.lanes());
  T* gate = scratch.allocate<T>(kTileRows * kLanes<T>);
  T* up = scratch.allocate<T>(kTileRows * kLanes<T>);
  PackedWeight<T> w_gate(scratch, D);
  PackedWeight<T> w_up(scratch, D);
  PackedWeight<T> w_down(scratch, parts.step);

  rows.load(shape, x);
  for_each_step(F, parts.step, [&](int64_t part, int64_t width) {
    const auto load_gate_and_up = [&](int64_t f, int64_t results) {
      const int64_t neuron = (block.expert * F + part + f) * D;
      w_gate.load_rows(results, D, weights.gate + neuron, D);
      w_up.load_rows(results, D, weights.up + neuron, D);
    };
    for_each_tile(width, load_gate_and_up, [&](int64_t f, int64_t first, int64_t results) {
      for (int64_t p = 0; p < panels; ++p) {
        const LanePanel panel = panel_of<T>(block, p);
        w_gate.multiply(first, results, panel.lanes, rows.in_of(p), false, gate);
        w_up.multiply(first, results, panel.lanes, rows.in_of(p), false, up);
        T* h_tile = h + p * parts.lanes() + f * kLanes<T>;
        for (int64_t i = 0; i < results; ++i) {
          const int64_t kept = panel.first * F + (part + f + i) * panel.count;
          for (int64_t lane = 0; lane < panel.lanes; lane += kWidth) {
            const Vec<T> g = load(gate + i * kLanes<T> + lane);
            const Vec<T> u = load(up + i * kLanes<T> + lane);
            store(h_tile + i * kLanes<T> + lane, g * sigmoid(g) * u);
            if (hidden.gate == nullptr) continue;
            const int64_t present = std::min(kWidth, panel.count - lane);
            store_first(hidden.gate + kept + lane, g, present);
            store_first(hidden.up + kept + lane, u, present);
          }
        }
      }
    });
    const auto load_down = [&](int64_t d, int64_t results) {
      w_down.load_rows(results, width, weights.down + (block.expert * D + d) * F + part, F);
    };
    for_each_tile(D, load_down, [&](int64_t d, int64_t first, int64_t results) {
      for (int64_t p = 0; p < panels; ++p) {
        w_down.multiply(first, results, panel_of<T>(block, p).lanes, h + p * parts.lanes(),
                        part > 0, rows.out_of(p, d));
      }
    });
  });
  rows.store(y, false);
}

/// y of one expert with a few rows, by products whose lanes are neurons: the same chains of sums, each
/// over all threads unless other experts have them.
template <class T>
void forward_few_rows(const ExpertsShape& shape, const ExpertWeights<T>& weights, const T* x, T* y,
                      int64_t expert) {
  const int64_t D = shape.D;
  const int64_t F = shape.F;
  const int64_t first = shape.offsets[expert];
  const int64_t rows = shape.rows(expert);
  ArenaScope scratch(thread_arena());
  T* gate = scratch.allocate<T>(rows * F);
  T* up = scratch.allocate<T>(rows * F);
  const GemmOperand<T> in = shape.token_of_row == nullptr
                                ? GemmOperand<T>{x + first * D, D}
                                : GemmOperand<T>{x, D, false, shape.token_of_row + first};
  const int64_t neuron = expert * F * D;
  const std::array<JointProduct<T>, 2> products{
      JointProduct<T>{F, {weights.gate + neuron, D, true}, {gate, F}},
      JointProduct<T>{F, {weights.up + neuron, D, true}, {up, F}}};
  gemm_joint_columns<T>(rows, D, in, products);
  for_each_vector<T>(rows * F, [&](int64_t i, int64_t count) {
    const Vec<T> g = load_first(gate + i, count);
    store_first(gate + i, g * sigmoid(g) * load_first(up + i, count), count);
  });
  gemm<T>({rows, D, F}, {gate, F}, {weights.down + neuron, F, true}, {y + first * D, D});
}

template <class T>
void forward_few_rows(const ExpertsShape& shape, const ExpertWeights<T>& weights, const T* x,
                      T* y) {
  std::array<int64_t, kFewRows> experts{};
  int64_t count = 0;
  for (int64_t e = 0; e < shape.E; ++e) {
    if (shape.rows(e) > 0) experts[static_cast<size_t>(count++)] = e;
  }
  const auto forward = [&](int64_t i) {
    forward_few_rows(shape, weights, x, y, experts[static_cast<size_t>(i)]);
  };
  if (count == 1) return forward(0);
  parallel_for(count, forward);
}

/// dh of a tile -> dg, du and weight times h of it; adds <h, dh / weight> to `dots` [lanes].
template <class T>
struct HiddenGradient {
  const T* weight;  // [lanes]
  T* dots;          // [lanes]
  T* grad_gate;     // [results, lanes], as the next two
  T* grad_up;
  T* weighted;
};
template <class T>
void differentiate_hidden(int64_t results, const LanePanel& panel, const T* grad_h, const T* gate,
                          const T* up, const HiddenGradient<T>& to) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  const Vec<T> one = broadcast(T{1});
  for (int64_t lane = 0; lane < panel.lanes; lane += kWidth) {
    const int64_t present = std::min(kWidth, panel.count - lane);
    const Vec<T> weight = load(to.weight + lane);
    Vec<T> dot = load(to.dots + lane);
    for (int64_t i = 0; i < results; ++i) {
      const int64_t at = i * kLanes<T> + lane;
      const Vec<T> g = load_first(gate + i * panel.count + lane, present);
      const Vec<T> u = load_first(up + i * panel.count + lane, present);
      const Vec<T> s = sigmoid(g);
      const Vec<T> silu = g * s;
      const Vec<T> h = silu * u;
      const Vec<T> plain = load(grad_h + at);
      const Vec<T> dh = weight * plain;
      dot = fma(h, plain, dot);
      store(to.weighted + at, weight * h);
      store(to.grad_up + at, dh * silu);
      store(to.grad_gate + at, dh * u * (s * (one + g * (one - s))));
    }
    store(to.dots + lane, dot);
  }
}

template <class T>
void backward_block(const ExpertsShape& shape, const ExpertWeights<T>& weights,
                    const ExpertsBackward<T>& args, const ExpertsRows<T>& kept_rows,
                    const Block& block) {
  const int64_t D = shape.D;
  const int64_t F = shape.F;
  ArenaScope scratch(thread_arena());
  const BlockRows<T> rows(scratch, shape, block);
  const HiddenParts<T>& parts = rows.parts;
  const int64_t panels = rows.panels;
  T* grad_gate = scratch.allocate<T>(panels * parts.lanes());
  T* grad_up = scratch.allocate<T>(panels * parts.lanes());
  T* weighted = scratch.allocate<T>(panels * parts.lanes());
  T* grad_h = scratch.allocate<T>(kTileRows * kLanes<T>);
  T* row_weights = scratch.allocate<T>(panels * kLanes<T>);
  T* dots = scratch.allocate<T>(panels * kLanes<T>);
  PackedWeight<T> w_gate(scratch, parts.step);
  PackedWeight<T> w_up(scratch, parts.step);
  PackedWeight<T> w_down(scratch, D);
  const auto slot_of = [&](int64_t row) {
    return args.slot_of_row == nullptr ? row : args.slot_of_row[row];
  };

  std::fill_n(dots, panels * kLanes<T>, T{0});
  std::fill_n(row_weights, panels * kLanes<T>, T{1});
  rows.load(shape, args.grad_y);
  for (int64_t p = 0; p < panels && args.weight != nullptr; ++p) {
    const LanePanel panel = panel_of<T>(block, p);
    for (int64_t lane = 0; lane < panel.count; ++lane) {
      row_weights[p * kLanes<T> + lane] = args.weight[slot_of(panel.first + lane)];
    }
  }
  for_each_step(F, parts.step, [&](int64_t part, int64_t width) {
    const auto load_down = [&](int64_t f, int64_t results) {
      w_down.load_columns(results, D, weights.down + block.expert * D * F + part + f, F);
    };
    for_each_tile(width, load_down, [&](int64_t f, int64_t first, int64_t results) {
      for (int64_t p = 0; p < panels; ++p) {
        const LanePanel panel = panel_of<T>(block, p);
        w_down.multiply(first, results, panel.lanes, rows.in_of(p), false, grad_h);
        const int64_t kept = panel.first * F + (part + f) * panel.count;
        const int64_t tile = p * parts.lanes() + f * kLanes<T>;
        differentiate_hidden<T>(results, panel, grad_h, args.hidden.gate + kept,
                                args.hidden.up + kept,
                                {row_weights + p * kLanes<T>, dots + p * kLanes<T>,
                                 grad_gate + tile, grad_up + tile, weighted + tile});
      }
    });
    for (int64_t p = 0; p < panels; ++p) {
      const LanePanel panel = panel_of<T>(block, p);
      const auto keep = [&](const T* lanes, T* to) {
        if (to == nullptr) return;
        store_lanes<T>(
            panel.count, width, lanes + p * parts.lanes(), rows.factors,
            [&](int64_t lane) { return to + (panel.first + lane) * F + part; }, false);
      };
      keep(grad_gate, kept_rows.grad_gate);
      keep(grad_up, kept_rows.grad_up);
      keep(weighted, kept_rows.hidden);
    }
    if (!args.grad_rows) return;
    const auto load_gate_and_up = [&](int64_t d, int64_t results) {
      const int64_t corner = (block.expert * F + part) * D + d;
      w_gate.load_columns(results, width, weights.gate + corner, D);
      w_up.load_columns(results, width, weights.up + corner, D);
    };
    for_each_tile(D, load_gate_and_up, [&](int64_t d, int64_t first, int64_t results) {
      for (int64_t p = 0; p < panels; ++p) {
        T* tile = rows.out_of(p, d);
        const int64_t lanes = panel_of<T>(block, p).lanes;
        w_gate.multiply(first, results, lanes, grad_gate + p * parts.lanes(), part > 0, tile);
        w_up.multiply(first, results, lanes, grad_up + p * parts.lanes(), true, tile);
      }
    });
  });
  if (args.grad_rows) rows.store(args.grad_rows.data, args.grad_rows.accumulate);
  for (int64_t p = 0; p < panels && args.grad_weight; ++p) {
    const LanePanel panel = panel_of<T>(block, p);
    for (int64_t lane = 0; lane < panel.count; ++lane) {
      put_gradient(args.grad_weight.from(slot_of(panel.first + lane)), 1,
                   [&](int64_t) { return dots[p * kLanes<T> + lane]; });
    }
  }
}

}  // namespace

bool swiglu_experts_in_place(int64_t F) { return HiddenParts<float>(F).single(); }

template <class T>
void swiglu_experts(const ExpertsShape& shape, const ExpertWeights<T>& weights, const T* x,
                    const ExpertsHidden<T>& hidden, T* y) {
  // Decoding: nothing is kept.
  if (hidden.gate == nullptr && shape.rows() <= kFewRows) {
    return forward_few_rows(shape, weights, x, y);
  }
  for_each_block<T>(
      shape, [&](const Block& block) { forward_block(shape, weights, x, hidden, y, block); });
}

template <class T>
void swiglu_experts_backward(const ExpertsShape& shape, const ExpertWeights<T>& weights,
                             const ExpertsBackward<T>& args, const ExpertsRows<T>& rows) {
  for_each_block<T>(shape,
                    [&](const Block& block) { backward_block(shape, weights, args, rows, block); });
}

#define SLUICE_INSTANTIATE(T)                                                          \
  template void swiglu_experts(const ExpertsShape&, const ExpertWeights<T>&, const T*, \
                               const ExpertsHidden<T>&, T*);                           \
  template void swiglu_experts_backward(const ExpertsShape&, const ExpertWeights<T>&,  \
                                        const ExpertsBackward<T>&, const ExpertsRows<T>&)
SLUICE_INSTANTIATE(float);
SLUICE_INSTANTIATE(double);
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
