#pragma once
// Optimizers: from gradients to new parameter values.
//
//   auto optimizer = make_optimizer(recipe.optim, model.parameters(), pool);
//   optimizer->step(progress, clip_scale(norm.value, optimizer->clip_norm()));
//
// An optimizer is one file in optim/optimizers/ and one line in optimizers.def.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/core/parameter.h"
#include "autograd/core/state.h"
#include "autograd/support/fields.h"
#include "autograd/support/registry.h"
#include "autograd/support/scheduled.h"

namespace sluice {

/// What every optimizer's section of a recipe has.
struct OptimizerConfig : Configurable {
  Scheduled learning_rate;
  Scheduled weight_decay = 0.1;
  /// Kinds of parameters that decay (groups.h).
  std::vector<std::string> decay_on = {"matrix", "router"};
  /// Largest norm of the whole gradient; longer ones are scaled down to it.
  std::optional<double> clip_norm = 1.0;

  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

class Optimizer {
 public:
  explicit Optimizer(std::shared_ptr<const OptimizerConfig> config) : config_(std::move(config)) {}
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Updates every trainable parameter from `gradient_scale` times its gradient, at the rates that
  /// the schedules give for `progress`. A gradient that nothing reached counts as zero: such a
  /// parameter still decays and its moments still fade. Not called for a skipped update.
  virtual void step(const Progress& progress, double gradient_scale) = 0;
  /// Bytes that a step must read or write at least once.
  [[nodiscard]] virtual double step_bytes() const = 0;
  /// Everything that must survive a resume, the moments under their parameters' names.
  virtual void visit_state(StateVisitor& visitor) = 0;

  [[nodiscard]] double learning_rate(const Progress& progress) const {
    return config_->learning_rate.at(progress);
  }
  [[nodiscard]] double weight_decay(const Progress& progress) const {
    return config_->weight_decay.at(progress);
  }
  [[nodiscard]] std::optional<double> clip_norm() const { return config_->clip_norm; }

 private:
  // Shared with the recipe, which nobody changes once it is read.
  std::shared_ptr<const OptimizerConfig> config_;
};

/// A line of optimizers.def.
struct OptimizerType {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  std::unique_ptr<Optimizer> (*make)(std::shared_ptr<const Configurable> config,
                                     std::span<Parameter* const> parameters, Pool& pool);
};

/// For FieldVisitor::tagged.
[[nodiscard]] std::span<const Choice> optimizer_choices();
/// A section with its defaults. Throws ConfigError for an unknown type, with the known ones.
[[nodiscard]] Tagged default_optimizer(std::string_view type);

/// The optimizer that `choice` describes, for the trainable ones of `parameters`, which must
/// outlive it; frozen ones get no state. Its state lives in `pool` as MemoryKind::optimizer and
/// starts at zero. Throws ConfigError.
[[nodiscard]] std::unique_ptr<Optimizer> make_optimizer(const Tagged& choice,
                                                        std::span<Parameter* const> parameters,
                                                        Pool& pool);

}  // namespace sluice
