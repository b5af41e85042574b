#pragma once
// Mamba (Gu and Dao 2023, "Mamba: linear-time sequence modeling with selective state spaces",
// section 3 and figure 3; initial values as in the authors' code).
//
//   u = silu(conv(x W_u^T)),   [r | B | C] = u W_x^T,   d = softplus(r W_dt^T + dt_bias)
//   h_t = e^(-d_t e^A_log) h_(t-1) + d_t B_t u_t,   y_t = C_t h_t + D u_t   per channel
//   out = (y silu(x W_z^T)) W_out^T
//
// With `bcdt_norm`, r, B and C each pass an RMSNorm first (Jamba: Lieber et al. 2024, section 3).
//
// Letters: E inner width (expand times hidden size), N state size, R rank of the step sizes. Initial
// values: A_log[c, n] = log(n + 1), D = 1, W_dt U(-R^(-1/2), R^(-1/2)), dt_bias so that d is
// log-uniform in [time_step_min, time_step_max], linear maps and convolution U(-fan_in^(-1/2),
// fan_in^(-1/2)), W_out divided by the root of the number of sublayers. A_log, D and dt_bias are of
// the kind bias, which does not decay by default. The authors' one input projection has the rows
// [w_u | w_z].

#include <memory>
#include <optional>
#include <string>

#include "autograd/support/fields.h"
#include "layers/step_size.h"
#include "layers/sublayer.h"

namespace sluice {

/// `model.mamba1` of a recipe.
struct Mamba1Config : Configurable {
  double expand = 2.0;
  int64_t state_size = 16;
  int64_t conv_kernel = 4;
  bool conv_bias = true;
  std::optional<int64_t> time_step_rank;  // auto: hidden_size / 16, rounded up
  StepSizeConfig step_size;
  bool bcdt_norm = false;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

/// Which of its projections have a copy for each modality (model.modalities); dt with its bias.
struct UntiedProjections {
  bool in = false;
  bool x = false;
  bool dt = false;
  bool out = false;
};

/// The mixer with parameters below `b`.
[[nodiscard]] std::unique_ptr<Mixer> make_mamba1(const Builder& b, const ModelConfig& model,
                                                 const Mamba1Config& config,
                                                 const UntiedProjections& untied = {});
/// For MixerEntry::check.
[[nodiscard]] std::string check_mamba1(const ModelConfig& model, const Configurable& section);

}  // namespace sluice
