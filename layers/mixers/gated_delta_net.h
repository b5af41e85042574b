#pragma once
// Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks: Improving Mamba2 with Delta
// Rule", section 3 and its code): a matrix per head that forgets by a gate and overwrites what a key
// brought back. layers/matrix_memory.h has the layer, ops/gated_delta_rule.h the recurrence.
//
// Initial values as published for the decay (A = U(0, 16), step sizes as Mamba's) and the
// convolutions; projections start as everywhere else in a recipe (model.init), not as published
// (Xavier uniform with gain 2^(-2.5)).

#include "autograd/support/fields.h"
#include "layers/matrix_memory.h"

namespace sluice {

/// `model.gated_delta_net` of a recipe.
struct GatedDeltaNetConfig final : Configurable {
  MemoryHeadsConfig heads;
  StepSizeConfig step_size;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override { return step_size.check(); }
};

}  // namespace sluice
