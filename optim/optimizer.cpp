#include "optim/optimizer.h"

#include <algorithm>
#include <array>

#include "optim/groups.h"
#include "optim/optimizers/types.h"

namespace sluice {
namespace {

#define SLUICE_OPTIMIZER(name) std::string_view(#name),
constexpr std::array kNames = {
#include "optim/optimizers.def"
};
#undef SLUICE_OPTIMIZER
static_assert(all_distinct(kNames), "two lines of optimizers.def have the same name");

#define SLUICE_OPTIMIZER(name) &optimizers::name(),
const Registry<OptimizerType>& registry() {
  static const std::array entries = {
#include "optim/optimizers.def"
  };
  static const Registry<OptimizerType> table("optimizer", entries);
  return table;
}
#undef SLUICE_OPTIMIZER

}  // namespace

void OptimizerConfig::fields(FieldVisitor& v) {
  v.scheduled({"learning_rate", "step size, usually a schedule", /*required=*/true}, learning_rate,
              {.min = 0});
  v.scheduled({"weight_decay", "decoupled decay: a parameter shrinks by learning_rate times this"},
              weight_decay, {.min = 0});
  v.texts({"decay_on", "kinds of parameters that decay: matrix, router, embedding, norm, bias"},
          decay_on);
  v.optional_number(
      {"clip_norm", "largest norm of the whole gradient; longer ones are scaled to it"}, clip_norm,
      {.min = 0, .exclusive_min = true}, "none");
}

std::string OptimizerConfig::check() const {
  try {
    const auto rules = decay_rules(decay_on);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

std::span<const Choice> optimizer_choices() {
  static const std::vector<Choice> choices = [] {
    std::vector<Choice> result;
    for (const OptimizerType* type : registry().entries()) {
      result.push_back({type->name, type->doc, type->make_config});
    }
    return result;
  }();
  return choices;
}

Tagged default_optimizer(std::string_view type) {
  const OptimizerType& entry = registry().at(type);
  return {std::string(entry.name), entry.make_config()};
}

std::unique_ptr<Optimizer> make_optimizer(const Tagged& choice,
                                          std::span<Parameter* const> parameters, Pool& pool) {
  return registry().at(choice.type).make(choice.config, parameters, pool);
}

}  // namespace sluice
