#include "train/frozen_experts.h"

#include <algorithm>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// Where a parameter's slices are experts: their number, else 0.
int64_t experts_of(const Parameter& parameter, std::span<const int64_t> stacked) {
  if (parameter.stack == Stack::routed_experts) return parameter.value.dim(0);
  const bool by_expert =
      parameter.name.ends_with(".router.weight") || parameter.name.ends_with(".router.bias");
  if (!by_expert || parameter.value.rank() == 0) return 0;
  const int64_t rows = parameter.value.dim(0);
  return std::ranges::find(stacked, rows) == stacked.end() ? 0 : rows;
}

}  // namespace

FrozenExperts::FrozenExperts(std::span<Parameter* const> parameters,
                             std::span<const int64_t> experts) {
  if (experts.empty()) return;
  std::vector<int64_t> stacked;
  for (const Parameter* parameter : parameters) {
    if (parameter->stack == Stack::routed_experts) stacked.push_back(parameter->value.dim(0));
  }
  SLUICE_CHECK(ConfigError, !stacked.empty(),
               "train.freeze_experts: given, but the model has no experts");
  const int64_t most = *std::ranges::max_element(experts);
  SLUICE_CHECK(ConfigError, most < *std::ranges::min_element(stacked),
               "train.freeze_experts: found {}, allowed 0 to {}", most,
               *std::ranges::min_element(stacked) - 1);
  size_t kept = 0;
  for (Parameter* parameter : parameters) {
    const int64_t count = parameter->trainable ? experts_of(*parameter, stacked) : 0;
    if (count == 0 || !parameter->value.has_memory()) continue;
    const size_t size = parameter->value.raw().size() / static_cast<size_t>(count);
    for (const int64_t expert : experts) {
      slices_.push_back({parameter, static_cast<size_t>(expert) * size, size, kept});
      kept += size;
    }
  }
  kept_.resize(kept);
}

void FrozenExperts::clear_gradients() const {
  for (const Slice& slice : slices_) {
    Parameter& parameter = *slice.parameter;
    if (parameter.grad_is_zero) continue;
    std::ranges::fill(parameter.grad.raw().subspan(slice.begin, slice.size), std::byte{0});
  }
}

void FrozenExperts::save() {
  for (const Slice& slice : slices_) {
    std::ranges::copy(slice.parameter->value.raw().subspan(slice.begin, slice.size),
                      kept_.begin() + static_cast<std::ptrdiff_t>(slice.kept));
  }
}

void FrozenExperts::restore() const {
  for (const Slice& slice : slices_) {
    std::ranges::copy(std::span(kept_).subspan(slice.kept, slice.size),
                      slice.parameter->value.raw().subspan(slice.begin, slice.size).begin());
  }
}

}  // namespace sluice
