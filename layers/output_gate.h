#pragma once
// A gate on what a layer adds to the residual stream, for layers that are put into a trained backbone
// (Hydra proposal, section 6.4 of the method page [R]):
//
//   y <- sigmoid(w x + b + output_gate_bias) y,  one number per token, w = b = 0 at first
//
// With the bias of -4 it starts nearly closed, at 0.018. The bias may follow a schedule: at -1000 the
// sigmoid is below every rounding, the model is the one without the layer bit for bit and the layer gets
// no gradient, so that a step up from there is a stage of training that opens the layer.

#include "autograd/support/scheduled.h"
#include "layers/context.h"
#include "layers/module.h"

namespace sluice {

/// The keys of a section with such a gate; part of it.
struct OutputGateConfig {
  bool output_gate = false;
  Scheduled output_gate_bias = -4.0;
  void fields(FieldVisitor& v);
};

/// Parameters "<path>.w_output_gate" [1, D] and "<path>.b_output_gate" [1]; none where the section wants
/// no gate.
class OutputGate final : public Module {
 public:
  OutputGate(const Builder& b, int64_t hidden_size, const OutputGateConfig& config);
  /// y [N, D] of x [N, D] -> [N, D]
  [[nodiscard]] Tensor apply(const ForwardContext& context, const Tensor& x, const Tensor& y) const;

 private:
  Scheduled offset_;
  Parameter* weight_ = nullptr;
  Parameter* bias_ = nullptr;
};

}  // namespace sluice
