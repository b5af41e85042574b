#include "autograd/core/parameter.h"

namespace sluice {

void Parameter::store_in_bf16(Pool& pool) {
  const bool is_matrix = kind == ParameterKind::matrix || kind == ParameterKind::embedding;
  if (!is_matrix || stays_f32) return;
  value = value.rounded_to_bf16(pool, MemoryKind::parameters);
  grad = Tensor();
}

void Parameter::zero_grad(Pool& pool) {
  if (!trainable) {
    grad = Tensor();
    return;
  }
  if (!grad.defined())
    grad = Tensor::empty(pool, value.shape(), value.dtype(), MemoryKind::gradients);
  grad_is_zero = true;
}

void Parameter::materialise_grad() {
  if (grad.defined() && grad_is_zero) {
    grad.fill_zero();
    grad_is_zero = false;
  }
}

}  // namespace sluice
