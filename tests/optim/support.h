#pragma once
// A parameter with a value and a gradient, for the tests of optimizers.

#include <memory>
#include <string>
#include <vector>

#include "autograd/core/parameter.h"

namespace sluice::testing {

template <class T>
[[nodiscard]] std::unique_ptr<Parameter> make_parameter(Pool& pool, std::string name,
                                                        ParameterKind kind,
                                                        const std::vector<T>& values) {
  auto parameter = std::make_unique<Parameter>();
  parameter->name = std::move(name);
  parameter->kind = kind;
  const auto size = static_cast<int64_t>(values.size());
  parameter->value = Tensor::of<T>(pool, {size}, values);
  parameter->zero_grad(pool);
  return parameter;
}

template <class T>
void set_grad(Parameter& parameter, const std::vector<T>& values) {
  std::copy(values.begin(), values.end(), parameter.grad.data<T>());
  parameter.grad_is_zero = false;
}

template <class T>
[[nodiscard]] std::vector<T> values_of(const Tensor& tensor) {
  const auto span = tensor.span<T>();
  return {span.begin(), span.end()};
}

}  // namespace sluice::testing
