#pragma once
// Mamba-2 (Dao and Gu 2024, "Transformers are SSMs: generalized models and efficient algorithms
// through structured state space duality", sections 6 and 7; initial values and order of operations
// as in the authors' code).
//
//   z = x W_z^T,   [x' | B | C] = silu(conv(x W_xbc^T)),   d = clamp(softplus(x W_dt^T + dt_bias))
//   S_t = e^(-d_t e^A_log) S_(t-1) + d_t x'_t (x) B_t,   y_t = S_t C_t + D x'_t   per head (ssd_scan.h)
//   out = gated_rms_norm(y, z) W_out^T
//
// D is one number per head, or one per channel (`D_per_channel`).
//
// Letters: E inner width (expand times hidden size), H heads of width P (H P = E, or ssm_size), G
// groups of heads that share B and C, N state size. Initial values: A_log = log U(1, 16), D = 1,
// dt_bias so that d is log-uniform in [time_step_min, time_step_max], linear maps and convolution
// U(-fan_in^(-1/2), fan_in^(-1/2)), W_out divided by the root of the number of sublayers. A_log, D
// and dt_bias are of the kind bias, which does not decay by default.
//
// The authors' one input projection is three here, so that no rows are copied apart: their rows are
// [w_z0 | w_x0 | w_z | w_xbc | w_dt] in this order.

#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "layers/step_size.h"

namespace sluice {

/// `model.mamba2` of a recipe.
struct Mamba2Config final : Configurable {
  double expand = 2.0;
  int64_t head_dim = 64;
  int64_t num_groups = 1;
  int64_t state_size = 128;
  int64_t conv_kernel = 4;
  bool conv_bias = true;
  int64_t chunk_size = 128;
  StepSizeConfig step_size;
  std::vector<double> time_step_limit;
  bool norm_before_gate = false;
  std::optional<int64_t> norm_group_size;  // auto: inner width / num_groups
  std::optional<int64_t> ssm_size;         // auto: the whole inner width
  bool D_per_channel = false;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

}  // namespace sluice
