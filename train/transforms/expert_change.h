#pragma once
// What a transformation makes of the experts of each layer, and carrying it out on recipe and state.
//
//   const Recipe after = changed_recipe(before.meta.recipe, layers, changes);
//   StateDict state = ...;                       // of a new run of it, with its initial values
//   change_state(before.state, layers, changes, state, notes);

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autograd/core/state.h"
#include "train/recipe.h"
#include "train/transforms/expert_layers.h"
#include "train/transforms/expert_neurons.h"

namespace sluice {

/// One layer. Letters: E experts before, E' after.
struct ExpertChange {
  /// [E']: the expert before whose router row, bias and moments an expert after has; its
  /// weights too, bit for bit, unless `weights` or `neurons` say otherwise.
  std::vector<int32_t> kept;
  std::vector<double> scores;                 // [E]; empty where nothing was scored
  std::vector<std::vector<int32_t>> members;  // [E']: the experts merged into each; empty: none was
  std::optional<ExpertNeurons> weights;       // of the E' experts
  std::vector<std::vector<int32_t>> neurons;  // [E'][f']: the neurons that each keeps; empty: all
  std::vector<double> router_rows;            // [E', D]; empty: the kept experts' own
  std::string note;                           // a sentence for the receipt, or none
};

/// Of one layer.
struct ExpertSizes {
  int64_t experts = 0;
  int64_t width = 0;  // neurons of a routed expert
  friend bool operator==(const ExpertSizes&, const ExpertSizes&) = default;
};

/// The recipe that the model has after the changes: the same but for the numbers and widths of its
/// experts; what made the model before (upcycle, train.init_from, diversify) or was to change it
/// (train.pruning) is left out, a scheduled top_k stays where it is. Throws ConfigError when layers that share a section of the recipe are
/// changed differently, or the recipe's own rules refuse the new numbers.
[[nodiscard]] Recipe changed_recipe(const std::string& recipe, std::span<const ExpertLayer> layers,
                                    std::span<const ExpertChange> changes);

/// Which arrays of a run are carried over.
struct KeptState {
  bool optimizer = false;
  bool step = false;
  bool data = false;
};

/// Overwrites `after`, the state of a new run of the changed recipe, by that of `before`: arrays that run
/// over experts are cut to those that are kept, all others copied. A moment of weights that were merged
/// starts anew, as does a balancer of which an array does not run over experts alone; `notes` get a
/// sentence for each kind of loss. Throws CheckpointError when an array of the model is missing, ConfigError when
/// one cannot be cut.
void change_state(const StateDict& before, std::span<const ExpertLayer> layers,
                  std::span<const ExpertChange> changes, const KeptState& kept, StateDict& after,
                  std::vector<std::string>& notes);

/// The shapes of a state, without lists of varying length.
using StateShapes = std::map<std::string, std::vector<int64_t>, std::less<>>;
/// "model/..." and "balance/..." of a recipe's run; with a vocabulary of some size where the recipe gives
/// none.
[[nodiscard]] StateShapes shapes_of(const Recipe& recipe);
/// Throws ConfigError when change_state could not carry the model or a balancer over to a run in which
/// every layer has the sizes of `after`.
void check_shapes(const StateShapes& before, const StateShapes& after,
                  std::span<const ExpertLayer> layers, std::span<const ExpertSizes> sizes);

}  // namespace sluice
