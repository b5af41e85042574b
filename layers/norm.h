#pragma once
// Normalisation of a row: RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba, Kiros and Hinton
// 2016).

#include <string>

#include "layers/context.h"
#include "layers/module.h"

namespace sluice {

struct NormConfig final : Configurable {
  std::string type = "rms_norm";
  double eps = 1e-5;
  void fields(FieldVisitor& v) override;
};

/// Over the last dimension. Parameters: "<path>.weight" (ones) and, for LayerNorm, "<path>.bias"
/// (zeros), each [D].
class Norm : public Module {
 public:
  Norm(const Builder& b, const NormConfig& config, int64_t size);
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x) const;

 private:
  double eps_;
  Parameter& weight_;
  Parameter* bias_ = nullptr;
};

}  // namespace sluice
