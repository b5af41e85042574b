#pragma once
// How large a model is.

#include <cstdint>

#include "layers/model.h"
#include "train/recipe.h"

namespace sluice {

struct ParameterCount {
  int64_t total = 0;
  int64_t trainable = 0;
  /// That one token uses: all but the experts that it is not sent to and the copies for
  /// other modalities than its own. The embedding counts whole.
  int64_t active = 0;
  int64_t experts = 0;           // of routed experts
  int64_t other_modalities = 0;  // copies for modalities other than a token's own
  int64_t embedding = 0;         // token and position embeddings, and an untied head
};

/// With a scheduled top_k, `active` is for the k at `progress`.
[[nodiscard]] ParameterCount count_parameters(const Recipe& recipe, const Model& model,
                                              const Progress& progress = {});

}  // namespace sluice
