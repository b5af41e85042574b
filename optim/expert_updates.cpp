#include "optim/expert_updates.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "autograd/kernels/reduce.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"

namespace sluice {
namespace {

std::string stack_of(const Parameter& parameter) {
  return parameter.name.substr(0, parameter.name.rfind('.'));
}

/// sums[e] += body(values of expert e), for every expert of a stacked tensor.
template <class Body>
void add_per_expert(std::vector<double>& sums, int64_t numel, Body&& body) {
  const auto experts = std::ssize(sums);
  const int64_t size = numel / experts;
  parallel_for(experts, [&](int64_t e) { sums[static_cast<size_t>(e)] += body(e * size, size); });
}

void add_squares(std::vector<double>& sums, const Tensor& values) {
  dispatch_float(values.dtype(), [&]<class T>() {
    const T* data = values.data<T>();
    add_per_expert(sums, values.numel(), [&](int64_t begin, int64_t size) {
      return kernels::sum_of_squares<T>(size, data + begin);
    });
  });
}

void add_squared_distances(std::vector<double>& sums, const Tensor& before, const Tensor& after) {
  dispatch_float(before.dtype(), [&]<class T>() {
    const T* a = before.data<T>();
    const T* b = after.data<T>();
    add_per_expert(sums, before.numel(), [&](int64_t begin, int64_t size) {
      double sum = 0.0;
      for (int64_t i = begin; i < begin + size; ++i) {
        const double moved = static_cast<double>(b[i]) - static_cast<double>(a[i]);
        sum += moved * moved;
      }
      return sum;
    });
  });
}

Tensor copy_of(const Tensor& values, Pool& pool) {
  Tensor copy = Tensor::empty(pool, values.shape(), values.dtype());
  dispatch_float(values.dtype(), [&]<class T>() {
    std::memcpy(copy.data<T>(), values.data<T>(), static_cast<size_t>(values.numel()) * sizeof(T));
  });
  return copy;
}

double root_of_quotient(double numerator, double denominator) {
  return denominator > 0.0 ? std::sqrt(numerator / denominator) : 0.0;
}

}  // namespace

ExpertUpdateWatch::ExpertUpdateWatch(std::span<Parameter* const> parameters, Pool& pool) {
  for (const Parameter* parameter : parameters) {
    const bool is_watched = parameter->stack == Stack::routed_experts && parameter->trainable &&
                            parameter->placement == Placement::replicated &&
                            parameter->value.has_memory();
    if (!is_watched) continue;
    const std::string name = stack_of(*parameter);
    auto stack = std::ranges::find(stacks_, name, &Watched::name);
    if (stack == stacks_.end()) {
      stack = stacks_.insert(stack, {.name = name});
      stack->gradient_squares.assign(static_cast<size_t>(parameter->value.dim(0)), 0.0);
    }
    stack->parameters.push_back(parameter);
    stack->before.push_back(copy_of(parameter->value, pool));
    if (!parameter->grad_is_zero) add_squares(stack->gradient_squares, parameter->grad);
  }
}

std::vector<ExpertUpdates> ExpertUpdateWatch::finish() {
  std::vector<ExpertUpdates> result;
  for (Watched& stack : stacks_) {
    const size_t experts = stack.gradient_squares.size();
    std::vector<double> moved(experts, 0.0);
    std::vector<double> weights(experts, 0.0);
    for (size_t i = 0; i < stack.parameters.size(); ++i) {
      add_squared_distances(moved, stack.before[i], stack.parameters[i]->value);
      add_squares(weights, stack.before[i]);
    }
    ExpertUpdates updates{.stack = stack.name};
    double norms = 0.0;
    for (const double squares : stack.gradient_squares) norms += std::sqrt(squares);
    for (size_t e = 0; e < experts; ++e) {
      const double norm = std::sqrt(stack.gradient_squares[e]);
      updates.gradient_share.push_back(norms > 0.0 ? norm / norms : 0.0);
      updates.update_ratio.push_back(root_of_quotient(moved[e], weights[e]));
    }
    result.push_back(std::move(updates));
  }
  stacks_.clear();
  return result;
}

}  // namespace sluice
