#pragma once
// The layers of experts of a trained model, which transformations change.

#include <cstdint>
#include <string>
#include <vector>

#include "layers/ffns/moe.h"
#include "train/recipe.h"

namespace sluice {

struct ExpertLayer {
  std::string path;             // "layers.1"
  std::string section;          // of the recipe, below `model`: "experts", "variants.W"
  int64_t routed = 0;           // its number among the routed layers
  int64_t top_k = 0;            // at this point of the run
  const ExpertsConfig* config;  // of the recipe, which outlives this
};

/// All layers of experts of the recipe's model, in order. `where` ("from: runs/a") stands in front of
/// messages. Throws ConfigError when there is none, and for models whose layers do not each have experts
/// of their own that all tokens may go to (pools, groups of adaptive depth, modalities, experts not
/// spawned yet).
[[nodiscard]] std::vector<ExpertLayer> expert_layers(const Recipe& recipe, const Progress& progress,
                                                     const std::string& where);

/// The section of a recipe that ExpertLayer::section names, to be changed. Recipes that are copies of one
/// another share their sections: the model's must be of a recipe just read.
[[nodiscard]] ExpertsConfig& experts_section(ModelConfig& model, const std::string& key);

}  // namespace sluice
