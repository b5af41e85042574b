#include "train/spawn_experts.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <unordered_map>

#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"
#include "train/build.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = int64_t{1} << 14;

double standard_deviation(int64_t n, auto&& value) {
  const auto mean_of = [&](auto&& term) {
    return parallel_sum<double>(n, kBlock,
                                [&](int64_t begin, int64_t end) {
                                  double sum = 0.0;
                                  for (int64_t i = begin; i < end; ++i) sum += term(i);
                                  return sum;
                                }) /
           static_cast<double>(n);
  };
  const double mean = mean_of(value);
  return std::sqrt(mean_of([&](int64_t i) { return std::pow(value(i) - mean, 2); }));
}

/// theta_i of every expert i from theta_0, the first expert's own last.
template <class T>
void spawn(Parameter& parameter, const DiversifyConfig& config, uint64_t seed) {
  const int64_t experts = parameter.value.dim(0);
  const int64_t size = parameter.value.numel() / experts;
  T* values = parameter.value.data<T>();
  const double scale = config.noise == 0.0 || size == 0
                           ? 0.0
                           : config.noise * standard_deviation(size, [&](int64_t i) {
                               return static_cast<double>(values[i]);
                             });
  // Initial values are drawn for step 0; these never meet them.
  const auto step = static_cast<uint64_t>(config.steps);
  const RandomKey mask{seed, RandomPurpose::init, 0, step};
  const RandomKey noise{seed, RandomPurpose::init, 1, step};
  const uint64_t sample = hash_name(parameter.name.data(), parameter.name.size());
  for (int64_t e = experts - 1; e >= 0; --e) {
    T* own = values + e * size;
    parallel_for_ranges(size, kBlock, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto index = static_cast<uint64_t>(e * size + i);
        const bool kept = config.mask == 0.0 || uniform(mask, sample, index) >= config.mask;
        const double added = scale == 0.0 ? 0.0 : scale * normal(noise, sample, index);
        own[i] = static_cast<T>((kept ? static_cast<double>(values[i]) : 0.0) + added);
      }
    });
  }
}

/// Does to every moment of a stack of experts what spawning does to the stack.
class SpawnMoments final : public StateVisitor {
 public:
  SpawnMoments(std::span<Parameter* const> stacks, DiversifyConfig::Moments moments)
      : moments_(moments) {
    for (const Parameter* parameter : stacks) experts_[parameter->name] = parameter->value.dim(0);
  }

 protected:
  void visit(const StateField& field) override {
    // "<parameter>/<moment>", as Optimizer::visit_state promises.
    const auto stack = experts_.find(field.path.substr(0, field.path.rfind('/')));
    if (stack == experts_.end() || field.dims.empty() || field.dims[0] != stack->second) return;
    if (moments_ == DiversifyConfig::Moments::reset) {
      std::fill(field.bytes.begin(), field.bytes.end(), std::byte{0});
      return;
    }
    const size_t size = field.bytes.size() / static_cast<size_t>(stack->second);
    for (size_t begin = size; begin < field.bytes.size(); begin += size) {
      std::copy_n(field.bytes.begin(), size,
                  field.bytes.begin() + static_cast<std::ptrdiff_t>(begin));
    }
  }

 private:
  std::unordered_map<std::string, int64_t> experts_;  // of each stack, by its name
  DiversifyConfig::Moments moments_;
};

}  // namespace

void spawn_experts(std::span<Parameter* const> parameters, Optimizer& optimizer,
                   const DiversifyConfig& config, uint64_t seed) {
  std::vector<Parameter*> stacks;
  for (Parameter* parameter : parameters) {
    if (parameter->stack != Stack::routed_experts || !parameter->value.has_memory()) continue;
    stacks.push_back(parameter);
    dispatch_float(parameter->value.dtype(),
                   [&]<class T>() { spawn<T>(*parameter, config, seed); });
  }
  if (stacks.empty()) return;
  SpawnMoments moments(stacks, config.moments);
  optimizer.visit_state(moments);
}

void check_experts_spawned(const Recipe& recipe, int64_t step, const std::string& where) {
  const int64_t dense = steps_without_routes(recipe);
  SLUICE_CHECK(ConfigError, step >= dense,
               "{}: after step {} the experts are not made yet (model.experts.diversify.steps: {})",
               where, step, dense);
}

}  // namespace sluice
