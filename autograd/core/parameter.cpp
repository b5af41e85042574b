#include "autograd/core/parameter.h"

namespace sluice {

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
