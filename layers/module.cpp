#include "layers/module.h"

#include <array>
#include <cmath>

#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

constexpr int64_t kInitBlock = int64_t{1} << 14;

/// Element i becomes value(key, sample, i), which are those of (seed, name).
template <class Value>
void fill_random(Tensor& tensor, uint64_t seed, const std::string& name, Value&& value) {
  if (!tensor.has_memory()) return;
  const RandomKey key{seed, RandomPurpose::init, 0, 0};
  const uint64_t sample = hash_name(name.data(), name.size());
  dispatch_float(tensor.dtype(), [&]<class T>() {
    T* data = tensor.data<T>();
    parallel_for_ranges(tensor.numel(), kInitBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) data[i] = static_cast<T>(value(key, sample, i));
    });
  });
}

void fill_ones(Tensor& tensor) {
  if (!tensor.has_memory()) return;
  dispatch_float(tensor.dtype(), [&]<class T>() {
    for (T& value : tensor.span<T>()) value = T(1);
  });
}

}  // namespace

void InitConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kResidual = {"none", "gpt2"};
  v.number({"std", "standard deviation of matrices and embeddings (normal distribution)"}, std,
           {.min = 0.0});
  v.word({"residual",
          "scaling of projections that add to the residual stream: none, or gpt2 (divided by the "
          "square root of the number of sublayers)"},
         residual, kResidual);
}

Builder Builder::child(const std::string& name) const {
  Builder result = *this;
  if (!name.empty()) result.path_ = path_.empty() ? name : path_ + "." + name;
  return result;
}

Builder Builder::with_adapters(AdapterMaker& maker) const {
  Builder result = *this;
  result.adapters_ = &maker;
  return result;
}

std::unique_ptr<Parameter> Builder::make(const std::string& name, const Shape& shape,
                                         ParameterKind kind, Init init) const {
  auto parameter = std::make_unique<Parameter>();
  parameter->name = child(name).path();
  parameter->kind = kind;
  parameter->value = Tensor::empty(*pool_, shape, dtype_, MemoryKind::parameters);
  switch (init.kind) {
    case InitKind::zeros:
      parameter->value.fill_zero();
      break;
    case InitKind::ones:
      fill_ones(parameter->value);
      break;
    case InitKind::normal: {
      double std = init_->std;
      // A GPT-2 layer is two sublayers, so its sqrt(2 L) is the root of the number of sublayers.
      if (init.adds_to_residual && init_->residual == "gpt2") {
        std /= std::sqrt(static_cast<double>(num_sublayers_));
      }
      fill_random(parameter->value, seed_, parameter->name,
                  [std](const RandomKey& key, uint64_t sample, int64_t i) {
                    return std * normal(key, sample, static_cast<uint64_t>(i));
                  });
      break;
    }
    case InitKind::fan_in_uniform: {
      double bound = 1.0 / std::sqrt(static_cast<double>(init.fan_in));
      if (init.adds_to_residual) bound /= std::sqrt(static_cast<double>(num_sublayers_));
      fill(*parameter, [bound](int64_t, double u) { return bound * (2.0 * u - 1.0); });
      break;
    }
  }
  return parameter;
}

void Builder::fill(Parameter& parameter, FunctionRef<double(int64_t, double)> value) const {
  fill_random(parameter.value, seed_, parameter.name,
              [&](const RandomKey& key, uint64_t sample, int64_t i) {
                return value(i, uniform(key, sample, static_cast<uint64_t>(i)));
              });
}

std::vector<Parameter*> Module::parameters() const {
  std::vector<Parameter*> result;
  for (const Item& item : order_) {
    if (item.parameter != nullptr) {
      result.push_back(item.parameter);
    } else {
      const auto nested = item.child->parameters();
      result.insert(result.end(), nested.begin(), nested.end());
    }
  }
  return result;
}

Parameter& Module::parameter(const Builder& b, const std::string& name, const Shape& shape,
                             ParameterKind kind, Init init, Stack stack) {
  parameters_.push_back(b.make(name, shape, kind, init));
  Parameter& result = *parameters_.back();
  result.stack = stack;
  order_.push_back({&result, nullptr});
  return result;
}

}  // namespace sluice
