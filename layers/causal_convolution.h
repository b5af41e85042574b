#pragma once
// The short causal convolution in front of recurrent mixers, with its parameters.

#include <span>
#include <string>

#include "layers/context.h"
#include "layers/module.h"

namespace sluice {

/// y = silu(bias + causal depthwise convolution of x), document by document (causal_conv1d.h).
/// Parameters "<path>.weight" [C, K] and, with a bias, "<path>.bias" [C], both U(-K^(-1/2), K^(-1/2)).
class CausalConvolution : public Module {
 public:
  CausalConvolution(const Builder& b, int64_t channels, int64_t taps, bool has_bias = true);
  /// x [N, C] -> [N, C]. Throws ShapeError.
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x) const;
  /// The same over other ranges of rows than the documents: offsets [G + 1], which must live until the
  /// backward has run.
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x,
                               std::span<const int64_t> offsets) const;
  /// What decoding keeps: the last K - 1 inputs, [K - 1, C].
  [[nodiscard]] Tensor make_history(Pool& pool, DType dtype) const;
  /// x [n, C], the next tokens; brings the history up to date. Never records.
  [[nodiscard]] Tensor decode(const ForwardContext& context, const Tensor& x,
                              Tensor& history) const;

 private:
  [[nodiscard]] Tensor bias(Tape& tape) const;

  Parameter& weight_;
  Parameter* bias_ = nullptr;
};

}  // namespace sluice
