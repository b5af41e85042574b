#pragma once
// Routers: from hidden states to scores, a choice, and combine weights.

#include <memory>
#include <span>
#include <string_view>

#include "autograd/support/fields.h"
#include "autograd/support/registry.h"
#include "layers/context.h"
#include "layers/module.h"
#include "layers/routing.h"

namespace sluice {

/// What a router is made for.
struct RouterSetup {
  int64_t hidden_size;
  int64_t num_experts;
  int64_t layer;  // number of the expert layer: keys its random numbers
};

class Router : public Module {
 public:
  /// x [N, D] -> logits, scores and probabilities [N, E], in the dtype of x.
  [[nodiscard]] virtual RouterScores score(const ForwardContext& context,
                                           const Tensor& x) const = 0;
  /// Fills `selection.expert` with the top k of scores + shift (ties: lower index) under this
  /// router's restrictions. `shift` is [E] or empty. Not recorded.
  virtual void choose(const RouterScores& scores, std::span<const double> shift, int64_t top_k,
                      Selection& selection) const = 0;
  /// Combine weights [N, k] on the tape, from the scores without any shift; 0 for empty slots.
  [[nodiscard]] virtual Tensor combine_weights(const ForwardContext& context,
                                               const RouterScores& scores,
                                               const Selection& selection) const = 0;
};

/// A router's config can refuse a combination: returns "" or one sentence.
struct RouterConfig : Configurable {
  [[nodiscard]] virtual std::string check_against(int64_t num_experts, int64_t top_k) const = 0;
  /// True for a router that gives RouterScores::noise_scale in training.
  [[nodiscard]] virtual bool adds_noise() const { return false; }
};

/// A line of routers.def.
struct RouterEntry {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  std::unique_ptr<Router> (*make)(const Builder&, const RouterSetup&, const Configurable&);
};

#define SLUICE_ROUTER(name) extern const RouterEntry name##_router;
#include "layers/routers.def"
#undef SLUICE_ROUTER

[[nodiscard]] const Registry<RouterEntry>& router_registry();
/// For FieldVisitor::tagged.
[[nodiscard]] std::span<const Choice> router_choices();

}  // namespace sluice
