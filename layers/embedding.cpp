#include "layers/embedding.h"

#include "autograd/ops/embedding.h"

namespace sluice {

Embedding::Embedding(const Builder& b, int64_t vocab_size, int64_t hidden_size)
    : weight_(parameter(b, "weight", {vocab_size, hidden_size}, ParameterKind::embedding)) {}

Tensor Embedding::forward(const ForwardContext& context, const Tensor& tokens) const {
  return embedding(context.tape, context.tape.use(weight_), tokens);
}

}  // namespace sluice
