#pragma once
// Linear map, and what may stand beside its matrix.

#include <array>
#include <string>

#include "autograd/ops/matmul.h"
#include "layers/context.h"
#include "layers/module.h"

namespace sluice {

/// What a Linear is made from: parameters "<path>.w_<name>" [out, in] and, with bias,
/// "<path>.b_<name>" [out].
struct LinearSpec {
  std::string name;
  int64_t in;
  int64_t out;
  bool bias = false;
  Init init = {};
};

/// Changes what a Linear gives: low-rank experts beside a frozen matrix (adapters.h).
class LinearAdapter : public Module {
 public:
  /// y [N, out] of the Linear itself for x [N, in] -> what it gives instead.
  [[nodiscard]] virtual Tensor apply(const ForwardContext& context, const Tensor& x,
                                     const Tensor& y) const = 0;
};

/// Says which linear maps carry adapters while a model is made (Builder::with_adapters).
class AdapterMaker {
 public:
  virtual ~AdapterMaker() = default;
  /// For the Linear of this builder and spec, whose matrix is `weight`; null for none.
  [[nodiscard]] virtual std::unique_ptr<LinearAdapter> make(const Builder& b,
                                                            const LinearSpec& spec,
                                                            Parameter& weight) = 0;
};

/// y[n, out] = sum_in x[n, in] w[out, in] + b[out], changed by an adapter where it carries one.
class Linear : public Module {
 public:
  Linear(const Builder& b, const LinearSpec& spec);
  /// x [N, in] -> [N, out]. Throws ShapeError.
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x) const;
  /// x [N, in] by each of several, as one product: y_j [N, out_j], the bits of forward(). Throws
  /// ShapeError.
  template <size_t n>
  [[nodiscard]] static std::array<Tensor, n> forward_joint(
      const ForwardContext& context, const Tensor& x, const std::array<const Linear*, n>& linears) {
    std::array<LinearWeights, n> weights;
    for (size_t j = 0; j < n; ++j) weights[j] = linears[j]->weights(context.tape);
    std::array<Tensor, n> outputs = joint_linear(context.tape, x, weights);
    for (size_t j = 0; j < n; ++j) outputs[j] = linears[j]->adapted(context, x, outputs[j]);
    return outputs;
  }
  /// Keeps w in f32 where weights are stored in bf16: for layers that take weight() apart. Throws
  /// ConfigError with an adapter.
  void stay_f32();
  /// The matrix w [out, in] on `tape`, for ops that multiply by several at once. Throws ConfigError
  /// with an adapter, which they would leave out.
  [[nodiscard]] Tensor weight(Tape& tape) const;
  /// Only forward() and forward_joint() are what it computes.
  [[nodiscard]] bool has_adapter() const { return adapter_ != nullptr; }

 private:
  [[nodiscard]] Tensor adapted(const ForwardContext& context, const Tensor& x,
                               const Tensor& y) const {
    return adapter_ == nullptr ? y : adapter_->apply(context, x, y);
  }
  void check_whole() const;
  [[nodiscard]] LinearWeights weights(Tape& tape) const;

  Parameter& weight_;
  Parameter* bias_ = nullptr;
  const LinearAdapter* adapter_ = nullptr;
};

}  // namespace sluice
