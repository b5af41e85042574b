#pragma once
// Linear map.

#include <string>

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
  /// The matrix w [out, in] on `tape`, for ops that multiply by several at once.
  [[nodiscard]] Tensor weight(Tape& tape) const { return tape.use(weight_); }

 private:
  Parameter& weight_;
  Parameter* bias_ = nullptr;
};

}  // namespace sluice
