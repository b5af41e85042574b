#pragma once
// Experts made of the neurons of a dense feed-forward. Neuron i of y = Wd (silu(Wg x) * Wu x) is row i of
// Wg, row i of Wu and column i of Wd; a sum over neurons does not know their order.
//
//   LayerNeurons plan = scheme->choose(layer);
//   const ExpertMatrix gate{Matrix::gate, "layers.1.experts.w_gate", plan.scales.gate};
//   fill_experts(plan, shape, gate, dense_gate, expert_gates);

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "autograd/core/state.h"

namespace sluice {

/// Where the neurons of one feed-forward come from.
struct NeuronChoice {
  /// [f]: a neuron of the dense feed-forward; with several models, neuron i of model m is m F + i.
  std::vector<int32_t> source;
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
  double masked_share = 0.0;  // of elements of routed experts, which start at zero
  int64_t routed_models = 1;  // how many models' neurons the routed experts hold

  /// How many neurons of a dense feed-forward the routed experts hold, each counted once: the mean over
  /// their models.
  [[nodiscard]] double distinct() const;
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

/// The same matrix of each model, [F, D] (down: [D, F]).
using DenseMatrices = std::span<const StateArray* const>;

/// The routed experts' [E, f, D] (down: [E, D, f]) from the dense matrices, element type and sizes being
/// those of the arrays. Redrawn neurons are normal numbers with the mean and the (n - 1)
/// standard deviation that the matrix has in all neurons of this expert that are redrawn
/// (Drop-Upcycling, eq. 4-6), before scaling.
void fill_experts(const LayerNeurons& plan, const NeuronShape& shape, const ExpertMatrix& matrix,
                  uint64_t seed, DenseMatrices dense, StateArray& experts);
/// The shared experts' [W, D] (down: [D, W]), unscaled.
void fill_shared(const LayerNeurons& plan, const NeuronShape& shape, const ExpertMatrix& matrix,
                 DenseMatrices dense, StateArray& shared);
/// What an optimizer remembers of these matrices: neurons that are drawn anew start with none.
void fill_expert_moments(const LayerNeurons& plan, const NeuronShape& shape,
                         const ExpertMatrix& matrix, const StateArray& dense, StateArray& experts);

}  // namespace sluice
