#pragma once
// Token embedding.

#include "layers/context.h"
#include "layers/module.h"

namespace sluice {

/// y[n] = weight[token[n]]; weight [V, D], named "<path>.weight".
class Embedding : public Module {
 public:
  Embedding(const Builder& b, int64_t vocab_size, int64_t hidden_size);
  /// tokens [N] i32 -> [N, D]. Throws ShapeError for a token outside [0, V).
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& tokens) const;
  /// [V, D], shared with a tied head.
  [[nodiscard]] Parameter& weight() const { return weight_; }

 private:
  Parameter& weight_;
};

}  // namespace sluice
