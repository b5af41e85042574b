#include "balance/make.h"

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/support/choices.h"
#include "autograd/support/error.h"
#include "autograd/support/registry.h"
#include "balance/method.h"

namespace sluice {
namespace {

#define SLUICE_BALANCER(name) &name##_balancer,
constexpr const BalancerEntry* kMethods[] = {
#include "balance/methods.def"
};
#undef SLUICE_BALANCER

#define SLUICE_BALANCER(name) std::string_view(#name),
constexpr std::array kMethodNames = {
#include "balance/methods.def"
};
#undef SLUICE_BALANCER
static_assert(all_distinct(kMethodNames), "two lines of methods.def have the same name");

const Registry<BalancerEntry>& registry() {
  static const Registry<BalancerEntry> table("balancing method", kMethods);
  return table;
}

struct NamedMethod {
  std::string_view name;
  std::unique_ptr<Balancer> balancer;
};

/// Several methods on one layer.
class CombinedBalancer final : public Balancer {
 public:
  explicit CombinedBalancer(std::vector<NamedMethod> methods) : methods_(std::move(methods)) {
    for (const NamedMethod& method : methods_) {
      const BalancerTraits traits = method.balancer->traits();
      traits_.selects |= traits.selects;
      traits_.batch_dependent |= traits.batch_dependent;
      traits_.needs_global_counts |= traits.needs_global_counts;
      traits_.needs_noise |= traits.needs_noise;
      traits_.varies_k |= traits.varies_k;
      traits_.needs_running_counts |= traits.needs_running_counts;
      if (traits.selects) selecting_ = method.balancer.get();
    }
  }

  [[nodiscard]] BalancerTraits traits() const override { return traits_; }

  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query,
                                             const ActiveExperts& of_router) const override {
    return selecting_ == nullptr ? of_router : selecting_->active_experts(query, of_router);
  }

  void route(const RouterInput& input, Selection& selection) override {
    if (selecting_ == nullptr) {
      Balancer::route(input, selection);
    } else {
      selecting_->route(input, selection);
    }
  }

  void count_unbiased(const RouterInput& input, Selection& selection) override {
    for (const NamedMethod& method : methods_) method.balancer->count_unbiased(input, selection);
  }

  [[nodiscard]] Tensor combine_weights(Tape& tape, const RouterInput& input,
                                       const Selection& selection) override {
    return selecting_ == nullptr ? Tensor() : selecting_->combine_weights(tape, input, selection);
  }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* global_load, std::vector<AuxiliaryLoss>& losses) override {
    for (const NamedMethod& method : methods_) {
      const bool wants_load = method.balancer->traits().needs_global_counts;
      method.balancer->add_losses(tape, input, selection, wants_load ? global_load : nullptr,
                                  losses);
    }
  }

  void end_micro_batch(std::span<const Selection* const> layers) override {
    for (const NamedMethod& method : methods_) method.balancer->end_micro_batch(layers);
  }

  void reduce(Communicator& communicator) override {
    for (const NamedMethod& method : methods_) method.balancer->reduce(communicator);
  }

  void end_step(const LayerLoad& load, const Progress& progress) override {
    for (const NamedMethod& method : methods_) method.balancer->end_step(load, progress);
  }

  void visit_state(StateVisitor& visitor) override {
    for (const NamedMethod& method : methods_) {
      const StateScope scope(visitor, method.name);
      method.balancer->visit_state(visitor);
    }
  }

  void metrics(std::vector<std::pair<std::string, double>>& metrics) const override {
    for (const NamedMethod& method : methods_) method.balancer->metrics(metrics);
  }

 private:
  std::vector<NamedMethod> methods_;
  BalancerTraits traits_;
  Balancer* selecting_ = nullptr;  // one of methods_, or null: the router's own choice
};

/// `balance: [...]` as far as names go.
void check_names(std::span<const Tagged> methods) {
  SLUICE_CHECK(ConfigError, !methods.empty(),
               "balance: the list is empty; name a method, or {{type: none}} to train without one");
  for (size_t i = 0; i < methods.size(); ++i) {
    SLUICE_CHECK(ConfigError, methods[i].type != none_balancer.name || methods.size() == 1,
                 "balance: found none beside other methods; name either none or methods");
    for (size_t j = 0; j < i; ++j) {
      SLUICE_CHECK(ConfigError, methods[i].type != methods[j].type,
                   "balance: found {} twice; name each method once", methods[i].type);
    }
  }
}

/// An auxiliary loss on the load beside a method that takes none.
void check_auxiliary_losses(std::span<const NamedMethod> methods) {
  for (const NamedMethod& method : methods) {
    if (!registry().at(method.name).refuses_auxiliary_loss) continue;
    for (const NamedMethod& other : methods) {
      SLUICE_CHECK(ConfigError,
                   other.balancer->traits().selects || registry().at(other.name).ignores_load,
                   "balance: found {} beside {}, allowed no auxiliary loss on the load there; "
                   "remove one of the two",
                   other.name, method.name);
    }
  }
}

}  // namespace

const BalancerEntry& balancer_entry(std::string_view name) { return registry().at(name); }

std::span<const Choice> balance_choices() {
  static const std::vector<Choice> choices = choices_of<BalancerEntry>(kMethods);
  return choices;
}

std::unique_ptr<Balancer> make_balancer(std::span<const Tagged> methods,
                                        const BalancerSetup& setup) {
  check_names(methods);
  std::vector<NamedMethod> made;
  std::string_view selecting;
  for (const Tagged& method : methods) {
    const BalancerEntry& entry = registry().at(method.type);
    made.push_back({entry.name, entry.make(*method.config, setup)});
    if (!made.back().balancer->traits().selects) continue;
    SLUICE_CHECK(ConfigError, selecting.empty(),
                 "balance: {} and {} both choose experts; a list may hold one that does", selecting,
                 entry.name);
    selecting = entry.name;
  }
  check_auxiliary_losses(made);
  return std::make_unique<CombinedBalancer>(std::move(made));
}

}  // namespace sluice
