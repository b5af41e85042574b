// AdamW (Loshchilov and Hutter 2019, "Decoupled weight decay regularization").

#include <numeric>

#include "autograd/kernels/adamw_update.h"
#include "autograd/support/arena.h"
#include "optim/groups.h"
#include "optim/optimizers/types.h"

namespace sluice::optimizers {
namespace {

struct AdamWConfig final : OptimizerConfig {
  // Language models use a shorter memory of the squares than the paper's 0.999.
  std::vector<double> betas = {0.9, 0.95};
  double eps = 1e-8;

  void fields(FieldVisitor& v) override {
    OptimizerConfig::fields(v);
    v.numbers({"betas", "decay of the first and the second moment"}, betas, {.min = 0, .max = 1});
    v.number({"eps", "added to the root of the second moment"}, eps,
             {.min = 0, .exclusive_min = true});
  }
  [[nodiscard]] std::string check() const override {
    if (betas.size() != 2) {
      return fmt::format("betas: found {} numbers, allowed 2", betas.size());
    }
    if (betas[0] >= 1.0 || betas[1] >= 1.0) {
      return fmt::format("betas: found [{}, {}], allowed 0 to less than 1", betas[0], betas[1]);
    }
    return OptimizerConfig::check();
  }
};

class AdamW final : public Optimizer {
 public:
  AdamW(const std::shared_ptr<const AdamWConfig>& config, std::span<Parameter* const> parameters,
        Pool& pool)
      : Optimizer(config), config_(config) {
    for (const ParameterGroup& group : make_groups(parameters, decay_rules(config->decay_on))) {
      for (Parameter* parameter : group.parameters) {
        moments_.push_back(
            {parameter, group.decays, zeros_like(*parameter, pool), zeros_like(*parameter, pool)});
      }
    }
  }

  void step(const Progress& progress, double gradient_scale) override {
    ++steps_;
    const kernels::AdamWStep update{.t = steps_,
                                    .learning_rate = learning_rate(progress),
                                    .beta1 = config_->betas[0],
                                    .beta2 = config_->betas[1],
                                    .epsilon = config_->eps,
                                    .weight_decay = weight_decay(progress),
                                    .gradient_scale = gradient_scale};
    apply<float>(update);
    apply<double>(update);
  }

  [[nodiscard]] double step_bytes() const override {
    constexpr double kPasses = 7.0;  // reads the gradient; reads and writes value and moments
    return std::accumulate(
        moments_.begin(), moments_.end(), 0.0, [](double sum, const Moments& moments) {
          return sum + kPasses * static_cast<double>(moments.parameter->value.bytes());
        });
  }

  void visit_state(StateVisitor& v) override {
    v.integer("steps", steps_);
    for (Moments& moments : moments_) {
      const StateScope scope(v, moments.parameter->name);
      v.tensor("m", moments.first);
      v.tensor("v", moments.second);
    }
  }

 private:
  struct Moments {
    Parameter* parameter;
    bool decays;
    Tensor first;   // shape of the parameter: running mean of gradients
    Tensor second;  // and of their squares
  };

  static Tensor zeros_like(const Parameter& parameter, Pool& pool) {
    return Tensor::zeros(pool, parameter.value.shape(), parameter.value.dtype(),
                         MemoryKind::optimizer);
  }

  /// All parameters in T. A gradient that nothing reached is zero without being written or read.
  template <class T>
  void apply(const kernels::AdamWStep& update) {
    ArenaScope scratch(thread_arena());
    auto* parts = scratch.allocate<kernels::AdamWPart<T>>(std::ssize(moments_));
    size_t used = 0;
    for (Moments& moments : moments_) {
      Parameter& parameter = *moments.parameter;
      if (parameter.value.dtype() != dtype_of<T> || !parameter.value.has_memory()) continue;
      const bool has_grad = parameter.grad.defined() && !parameter.grad_is_zero;
      parts[used++] = {
          .n = parameter.value.numel(),
          .grad = has_grad ? parameter.grad.data<T>() : nullptr,
          .state = {parameter.value.data<T>(), moments.first.data<T>(), moments.second.data<T>()},
          .decays = moments.decays};
    }
    kernels::adamw_update<T>(update, std::span<const kernels::AdamWPart<T>>(parts, used));
  }

  std::shared_ptr<const AdamWConfig> config_;
  std::vector<Moments> moments_;
  int64_t steps_ = 0;  // updates applied: the t of the bias corrections
};

}  // namespace

const OptimizerType& adamw() {
  static const OptimizerType type{
      "adamw", "adaptive moments, decoupled weight decay (Loshchilov and Hutter 2019)",
      []() -> std::unique_ptr<Configurable> { return std::make_unique<AdamWConfig>(); },
      [](std::shared_ptr<const Configurable> config, std::span<Parameter* const> parameters,
         Pool& pool) -> std::unique_ptr<Optimizer> {
        auto own = std::dynamic_pointer_cast<const AdamWConfig>(std::move(config));
        SLUICE_INTERNAL_CHECK(own != nullptr, "adamw is made from another optimizer's config");
        return std::make_unique<AdamW>(own, parameters, pool);
      }};
  return type;
}

}  // namespace sluice::optimizers
