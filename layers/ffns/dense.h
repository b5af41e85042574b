#pragma once
// Dense feed-forward: SwiGLU (Shazeer 2020) or the two-matrix form with GELU (GPT-2).

#include <optional>
#include <string>

#include "layers/linear.h"
#include "layers/sublayer.h"

namespace sluice {

/// `model.feed_forward` of a recipe.
struct DenseConfig final : Configurable {
  int64_t intermediate_size = 768;
  std::string activation = "swiglu";
  bool bias = false;
  void fields(FieldVisitor& v) override;
};

/// swiglu: y = (silu(x Wg^T) * (x Wu^T)) Wd^T; gelu_tanh: y = gelu(x Wu^T + b) Wd^T + b. Parameters
/// "<path>.w_gate" [F, D], "w_up" [F, D], "w_down" [D, F].
class DenseFeedForward final : public FeedForward {
 public:
  DenseFeedForward(const Builder& b, int64_t hidden_size, const DenseConfig& config);
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x,
                               BlockState& state) const override;
  /// The same without a block: the shared experts of a sparse layer.
  [[nodiscard]] Tensor apply(const ForwardContext& context, const Tensor& x) const;

 private:
  bool gated_;
  bool has_bias_;
  Linear* gate_ = nullptr;
  Linear* up_;
  Linear* down_;
};

}  // namespace sluice
