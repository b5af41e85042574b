#pragma once
// Linear map.

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

/// y[n, out] = sum_in x[n, in] w[out, in] + b[out]
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
    return joint_linear(context.tape, x, weights);
  }
  /// Keeps w in f32 where weights are stored in bf16: for layers that take weight() apart.
  void stay_f32() { weight_.stays_f32 = true; }
  /// The matrix w [out, in] on `tape`, for ops that multiply by several at once.
  [[nodiscard]] Tensor weight(Tape& tape) const { return tape.use(weight_); }

 private:
  [[nodiscard]] LinearWeights weights(Tape& tape) const;

  Parameter& weight_;
  Parameter* bias_ = nullptr;
};

}  // namespace sluice
