#pragma once
// Linear attention: the memory is the sum of keys times values, S_t = e^g_t S_{t-1} + phi(k_t) (x) v_t,
// o_t = S_t^T phi(q_t), over z_t^T phi(q_t) with z the same sum of keys where it is normalised
// (Katharopoulos et al. 2020, "Transformers are RNNs", eq. 16 to 20). With `decay` a gated linear
// attention (Yang et al. 2023), with one gate per head and token instead of one per key channel.
//
// Feature maps: elu(x) + 1 (Katharopoulos et al.), (W1 x) * (W2 x) (the one that MoM names), identity.

#include <string>

#include "autograd/support/fields.h"
#include "layers/matrix_memory.h"

namespace sluice {

/// `model.linear_attention` of a recipe.
struct LinearAttentionConfig final : Configurable {
  LinearAttentionConfig();
  MemoryHeadsConfig heads;
  FeatureMap feature_map = FeatureMap::elu_plus_one;
  bool normalise = true;
  bool decay = false;
  bool output_norm = true;
  StepSizeConfig step_size;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

}  // namespace sluice
