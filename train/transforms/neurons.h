#pragma once
// Experts made of the neurons of a dense feed-forward. Neuron i of y = Wd (silu(Wg x) * Wu x) is row i of
// Wg, row i of Wu and column i of Wd; a sum over neurons does not know their order.
//
//   LayerNeurons plan = scheme->choose(layer);
//   const ExpertMatrix gate{Matrix::gate, "layers.1.experts.w_gate", plan.scales.gate};
//   fill_experts(plan, shape, gate, dense_gate, expert_gates);

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/core/state.h"

namespace sluice {

/// Where the neurons of one feed-forward come from.
struct NeuronChoice {
  std::vector<int32_t> source;   // [f]: a neuron of the dense feed-forward
  std::vector<uint8_t> redrawn;  // [f]: 1 where it is drawn anew; empty: nowhere
};

/// The experts of a layer.
struct LayerNeurons {
  std::vector<NeuronChoice> experts;  // [E], f neurons each
  NeuronChoice shared;  // of all shared experts together; empty: they keep their start
  /// Routers' rows: expert e gets the row that expert router_row[e] starts with. Empty: its own.
  std::vector<int32_t> router_row;
  double noise = 0.0;        // standard deviation of what is added to elements of routed experts,
  double noise_share = 0.0;  // to this share of them

  /// How many neurons of the dense feed-forward the routed experts hold, each counted once.
  [[nodiscard]] int64_t distinct() const;
};

enum class Matrix : uint8_t { gate, up, down };

/// Sizes of the dense feed-forward and of what is made of it.
struct NeuronShape {
  int64_t hidden_size;  // D
  int64_t dense_width;  // F
};

/// One of the three matrices of a layer.
struct ExpertMatrix {
  Matrix matrix;
  std::string name;  // of the parameter, by which numbers are drawn
  double scale = 1.0;
};

/// The routed experts' [E, f, D] (down: [E, D, f]) from the dense [F, D] (down: [D, F]), element type
/// and sizes being those of the arrays. Redrawn neurons are normal numbers with the mean and the (n - 1)
/// standard deviation that the matrix has in all neurons of this expert that are redrawn
/// (Drop-Upcycling, eq. 4-6), before scaling.
void fill_experts(const LayerNeurons& plan, const NeuronShape& shape, const ExpertMatrix& matrix,
                  uint64_t seed, const StateArray& dense, StateArray& experts);
/// The shared experts' [W, D] (down: [D, W]), unscaled.
void fill_shared(const LayerNeurons& plan, const NeuronShape& shape, const ExpertMatrix& matrix,
                 const StateArray& dense, StateArray& shared);
/// What an optimizer remembers of these matrices: neurons that are drawn anew start with none.
void fill_expert_moments(const LayerNeurons& plan, const NeuronShape& shape,
                         const ExpertMatrix& matrix, const StateArray& dense, StateArray& experts);

}  // namespace sluice
