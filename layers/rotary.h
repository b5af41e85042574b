#pragma once
// The rotation of a recipe: frequencies and how they stretch to a longer context (ops/rope.h).

#include <memory>
#include <string>

#include "autograd/ops/rope.h"
#include "autograd/support/fields.h"

namespace sluice {

/// `rope_scaling` of a section.
struct RopeScalingConfig final : Configurable {
  std::string type = "linear";
  double factor = 1.0;
  int64_t original_max_position_embeddings = 8192;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  void fields(FieldVisitor& v) override;
};

/// The rotation of `rotary_dim` elements of a head; `scaling` is a RopeScalingConfig, or null.
[[nodiscard]] RopeConfig rope_config(int64_t rotary_dim, double theta, const Configurable* scaling);

}  // namespace sluice
