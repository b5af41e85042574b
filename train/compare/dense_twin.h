#pragma once
// The dense model that an MoE model is measured against: the same recipe, every expert layer a dense
// feed-forward, its width such that the model has as many parameters as a token of the MoE model
// uses (routers included).
//
// The number of parameters is linear in the width F, a + b F; F is (active - a) / b, rounded, so the
// two differ by at most b / 2 parameters. Dense layers that the model has already get the same width.
// What Switch Transformers (arXiv 2101.03961, section 2) calls a FLOP-matched baseline is this up to
// routing.

#include <cstdint>
#include <string>
#include <vector>

#include "train/recipe.h"
#include "train/yaml_document.h"

namespace sluice {

struct DenseTwin {
  YamlDocument document;  // its recipe
  int64_t width = 0;      // model.feed_forward.intermediate_size
  int64_t parameters = 0;
  int64_t active = 0;                        // of the model that it is the twin of
  std::vector<std::string> dropped_freezes;  // patterns of train.freeze that match nothing in it

  /// "dense feed-forwards of width 517: 1,234,567 parameters for 1,234,600 active ones (-0.003 %)"
  [[nodiscard]] std::string describe() const;
};

/// `document` is the recipe of `moe`, or at least its model; `active` its parameters per token.
/// Throws ConfigError when the model without its expert layers has more parameters than that.
[[nodiscard]] DenseTwin derive_dense_twin(YamlDocument document, const Recipe& moe, int64_t active,
                                          int64_t vocab_size);

}  // namespace sluice
