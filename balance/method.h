#pragma once
// What a balancing method is to the table: its name, its options, and how to make one. Included by
// the methods and by make.cpp.

#include <memory>
#include <string_view>

#include "autograd/support/fields.h"
#include "layers/routing.h"

namespace sluice {

/// A line of methods.def.
struct BalancerEntry {
  std::string_view name;
  std::string_view doc;  // one line, ending in the paper
  std::unique_ptr<Configurable> (*make_config)();
  /// `config` is what make_config made, its fields read. The balancer may keep a copy of its
  /// values.
  std::unique_ptr<Balancer> (*make)(const Configurable& config, const BalancerSetup& setup);
  /// Chooses by values of its own, not through RouterInput::choose: groups, thresholds and null
  /// experts of a router would go unheard.
  bool passes_over_router = false;
  /// Computes with top_k experts for every token.
  bool assumes_top_k = false;
  /// Its source wants no auxiliary loss on the load beside it.
  bool refuses_auxiliary_loss = false;
  /// Its loss is on something else than the load: goes with every method.
  bool ignores_load = false;
};

/// The line of methods.def with this name; throws ConfigError with the known and the nearest name.
[[nodiscard]] const BalancerEntry& balancer_entry(std::string_view name);

/// The make_config and make of a method `Method` with a constructor from (Config, BalancerSetup).
template <class Config>
[[nodiscard]] std::unique_ptr<Configurable> make_balancer_config() {
  return std::make_unique<Config>();
}
template <class Method, class Config>
[[nodiscard]] std::unique_ptr<Balancer> make_balancer_method(const Configurable& config,
                                                             const BalancerSetup& setup) {
  return std::make_unique<Method>(dynamic_cast<const Config&>(config), setup);
}

#define SLUICE_BALANCER(name) extern const BalancerEntry name##_balancer;
#include "balance/methods.def"
#undef SLUICE_BALANCER

}  // namespace sluice
