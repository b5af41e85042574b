#pragma once
// Routers: from hidden states to scores, a choice, and combine weights.

#include <memory>
#include <span>
#include <string_view>

#include "autograd/support/fields.h"
#include "autograd/support/registry.h"
#include "layers/active_experts.h"
#include "layers/context.h"
#include "layers/experts.h"
#include "layers/module.h"
#include "layers/routing.h"

namespace sluice {

class Router;

/// What a router is made for.
struct RouterSetup {
  int64_t hidden_size;
  int64_t num_experts;
  int64_t layer;      // number of the expert layer: keys its random numbers
  int64_t top_k = 1;  // largest k that the run uses
  /// The experts of the layer, for routers that look at their weights; they outlive the router.
  const Experts* experts = nullptr;
  /// The router of the model's first expert layer, for routers that decide once for all layers; null
  /// in that layer. It outlives the router.
  const Router* first = nullptr;
};

class Router : public Module {
 public:
  /// x [N, D] -> logits, scores and probabilities [N, E], in the dtype of x.
  [[nodiscard]] virtual RouterScores score(const ForwardContext& context,
                                           const Tensor& x) const = 0;
  /// Fills `selection.expert` with the top k of scores + shift (ties: lower index) under this
  /// router's restrictions. `shift` is [E], [N, E] or empty. A router that gives a token fewer
  /// experts leaves slots empty (kNoExpert), which cost nothing. Not recorded.
  virtual void choose(const ForwardContext& context, const RouterScores& scores,
                      std::span<const double> shift, int64_t top_k, Selection& selection) const = 0;
  /// Combine weights [N, k] on the tape, from the scores without any shift; 0 for empty slots.
  [[nodiscard]] virtual Tensor combine_weights(const ForwardContext& context,
                                               const RouterScores& scores,
                                               const Selection& selection) const = 0;

  /// What the routed experts read instead of x [N, D]; on the tape. Called in recomputation too.
  [[nodiscard]] virtual Tensor expert_input(const ForwardContext& /*context*/,
                                            const Tensor& x) const {
    return x;
  }

  /// For a router that looks at earlier tokens of the document: the memory that ForwardContext holds
  /// when decoding. Null: each token's scores are its own.
  [[nodiscard]] virtual std::unique_ptr<FeedForwardState> make_state(Pool& /*pool*/,
                                                                     DType /*dtype*/,
                                                                     int64_t /*capacity*/) const {
    return nullptr;
  }

  // --- for a router that learns from its own choices, not by gradients --------------------------

  /// How many sums over the tokens of a global batch it learns from.
  [[nodiscard]] virtual int64_t num_sums() const { return 0; }
  /// Adds what the counted tokens of a micro-batch bring, x [N, D] being the router's input. In
  /// training once per micro-batch: not in recomputation nor in a counting pass.
  virtual void add_sums(const ForwardContext& /*context*/, const Tensor& /*x*/,
                        const Selection& /*selection*/, std::span<double> /*sums*/) const {}
  /// True when it wants to know, in this step, the loss of every expert on the step's tokens.
  [[nodiscard]] virtual bool wants_expert_losses(const Progress& /*progress*/) const {
    return false;
  }
  /// Adds what a micro-batch brings: losses [N] in nats when every expert layer of the model sends
  /// all tokens to `expert`, 0 for tokens without a loss. Only where they are wanted.
  virtual void add_expert_losses(const ForwardContext& /*context*/, int64_t /*expert*/,
                                 const Tensor& /*losses*/, std::span<double> /*sums*/) const {}
  /// Once per applied optimizer step, with the sums of the whole global batch.
  virtual void end_step(std::span<const double> /*sums*/, const Progress& /*progress*/) {}
};

/// A router's config can refuse a combination: returns "" or one sentence.
struct RouterConfig : Configurable {
  /// Experts per token before any drop for lack of capacity.
  [[nodiscard]] virtual ActiveExperts active_experts(const ActiveExpertsQuery& query) const {
    return ActiveExperts::exactly(static_cast<double>(query.top_k));
  }
  [[nodiscard]] virtual std::string check_against(int64_t num_experts, int64_t top_k) const = 0;
  /// True for a router that gives RouterScores::noise_scale in training.
  [[nodiscard]] virtual bool adds_noise() const { return false; }
  /// True for a router whose choice follows from no scores: nothing shifts or teaches it.
  [[nodiscard]] virtual bool is_fixed() const { return false; }
  /// True for a router that gives a token fewer than top_k experts where it sees fit.
  [[nodiscard]] virtual bool varies_k() const { return false; }
  /// True for a router that excludes experts whatever their scores (groups).
  [[nodiscard]] virtual bool restricts() const { return false; }
  /// True for a router that wants ForwardContext::attention.
  [[nodiscard]] virtual bool reads_attention() const { return false; }
  /// How many domains of the training data it tells apart (SequenceLayout::document_domains); 0: it
  /// does not look at them.
  [[nodiscard]] virtual int64_t num_domains() const { return 0; }
  /// True when, by design, a token's experts depend in training on later tokens of its document.
  [[nodiscard]] virtual bool looks_ahead() const { return false; }
};

/// A line of routers.def.
struct RouterEntry {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  std::unique_ptr<Router> (*make)(const Builder&, const RouterSetup&, const Configurable&);
};

/// The make_config and make of a router `R` with a constructor from (Builder, RouterSetup, Config).
template <class Config>
[[nodiscard]] std::unique_ptr<Configurable> make_router_config() {
  return std::make_unique<Config>();
}
template <class R, class Config>
[[nodiscard]] std::unique_ptr<Router> make_router(const Builder& b, const RouterSetup& setup,
                                                  const Configurable& config) {
  return std::make_unique<R>(b, setup, dynamic_cast<const Config&>(config));
}

#define SLUICE_ROUTER(name) extern const RouterEntry name##_router;
#include "layers/routers.def"
#undef SLUICE_ROUTER

[[nodiscard]] const Registry<RouterEntry>& router_registry();
/// For FieldVisitor::tagged.
[[nodiscard]] std::span<const Choice> router_choices();

}  // namespace sluice
