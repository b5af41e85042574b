#pragma once
// A layer that routes: a router, the balancer that corrects it, capacity, and the record of what was
// chosen. What the chosen experts then do - feed-forwards, memories, heads of attention - is the
// business of the mixer or feed-forward that owns it.
//
// Letters: N tokens, D hidden size, E experts, k experts per token.

#include <memory>
#include <optional>
#include <string>

#include "autograd/ops/dispatch_combine.h"
#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "layers/active_experts.h"
#include "layers/block_state.h"
#include "layers/router.h"

namespace sluice {

class AttentionSource;
struct ModelConfig;
struct SublayerPlace;

/// How a layer routes: the part of a recipe's section that all layers that route have in common. A
/// section that derives from it routes (SublayerSpec::routing).
struct RoutingConfig : Configurable {
  int64_t num_experts = 16;
  Scheduled top_k = 2.0;
  Tagged router;
  std::optional<Scheduled> capacity_factor;
  std::string drop_policy = "position";

  /// What the section calls its experts ("num_experts", "num_memories").
  explicit RoutingConfig(FieldInfo count = {"num_experts", "routed experts E of a layer"});
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  /// How often one sublayer routes, each time with a router and a balancer of its own.
  [[nodiscard]] virtual int64_t num_routed_layers(const ModelConfig& /*model*/) const { return 1; }
  /// What part of the tokens each of them routes, where they share them out, as far as it is known
  /// before a run.
  [[nodiscard]] virtual double share_of_tokens(const ModelConfig& /*model*/) const { return 1.0; }

  /// Experts per token at this point of the run: the scheduled number, rounded, at least 1.
  [[nodiscard]] int64_t top_k_at(const Progress& progress) const;
  /// How many experts a token uses in training under the router's own choice, and after
  /// `with_capacity` how many of them have room for it.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query) const;
  [[nodiscard]] ActiveExperts with_capacity(const ActiveExpertsQuery& query,
                                            const ActiveExperts& chosen) const;
  /// The most that any point of any run has.
  [[nodiscard]] int64_t largest_top_k() const;
  /// The router wants the attention of an earlier layer.
  [[nodiscard]] bool reads_attention() const;

 protected:
  /// The number of experts and top_k.
  void count_fields(FieldVisitor& v);
  /// router, capacity_factor, drop_policy.
  void route_fields(FieldVisitor& v);

 private:
  [[nodiscard]] int64_t rounded_top_k(double k) const;

  FieldInfo count_;
};

/// What routing made of the tokens of a micro-batch.
struct Route {
  RouterScores scores;
  const Selection& selection;  // as RoutingSession::select
  Tensor weights;  // [N, selection.top_k], on the tape; those of dropped slots count for nothing
  Tensor input;    // [N, D]: what the experts read (Router::expert_input)
};

class RoutedLayer final : public Module {
 public:
  /// `layer` is its number among the model's routed layers. `experts`: as RouterSetup.
  /// Parameters: those of the router, "<path of b>.router...".
  RoutedLayer(const Builder& b, const RoutingConfig& config, int64_t hidden_size, int64_t layer,
              const SublayerPlace& place, const Experts* experts = nullptr);

  /// With a router of the owner's own instead of the one that the section names.
  RoutedLayer(const RoutingConfig& config, int64_t layer, std::unique_ptr<Router> router);

  /// x [N, D] -> who goes where: made by router and balancer, or in recomputation and replay taken
  /// from the record. Auxiliary losses go to `state`. Throws InternalError without a routing session.
  [[nodiscard]] Route route(const ForwardContext& context, const Tensor& x,
                            BlockState& state) const;
  /// Where the assignments that were not dropped go, in expert order.
  [[nodiscard]] DispatchPlan dispatch(const ForwardContext& context, const Route& route) const;
  /// No token came here in this pass: nothing is chosen, and balancers and loads hear of no tokens.
  void skip(const ForwardContext& context) const;
  /// Every token of x [N, D] goes to the first expert and nothing is routed: no load is counted, no
  /// balancer asked, and none learns. The experts' input [N, D].
  [[nodiscard]] Tensor bypass(const ForwardContext& context, const Tensor& x) const;

  [[nodiscard]] int64_t layer() const { return layer_; }
  [[nodiscard]] int64_t num_experts() const { return config_.num_experts; }
  [[nodiscard]] int64_t largest_top_k() const { return config_.largest_top_k(); }
  [[nodiscard]] const Router& router() const { return *router_; }

  /// Router::wants_expert_losses and add_expert_losses of its router.
  [[nodiscard]] bool wants_expert_losses(const Progress& progress) const {
    return router_->wants_expert_losses(progress);
  }
  void add_expert_losses(const ForwardContext& context, int64_t expert, const Tensor& losses) const;
  /// Once per applied optimizer step and pass of a forward through it (ForwardContext::routed_shift):
  /// lets a router learn that does not learn by gradients.
  void end_step(RoutingSession& session, int64_t shift, const Progress& progress);
  /// Router::make_state: the owner puts it into ForwardContext::memory when decoding.
  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t capacity) const {
    return router_->make_state(pool, dtype, capacity);
  }

 private:
  /// Its number in this pass.
  [[nodiscard]] int64_t number(const ForwardContext& context) const {
    return layer_ + context.routed_shift;
  }
  [[nodiscard]] const Selection& select(const ForwardContext& context, const RouterInput& input,
                                        BlockState& state) const;
  [[nodiscard]] bool replay(const ForwardContext& context, const RouterInput& input,
                            Selection& made) const;
  void add_router_sums(const ForwardContext& context, const Tensor& x,
                       const Selection& selection) const;
  [[nodiscard]] Tensor combine_weights(const ForwardContext& context, const RouterInput& input,
                                       const Selection& selection) const;
  void drop_overflow(const ForwardContext& context, const RouterInput& input,
                     Selection& selection) const;

  RoutingConfig config_;
  int64_t layer_;
  Router* router_;
  AttentionSource* attention_ = nullptr;  // what the router reads
};

/// A rule of every section that routes, for the `check` of its entry: a router that reads attention
/// needs a layer of it before the first layer that routes.
[[nodiscard]] std::string check_attention_before(const ModelConfig& model,
                                                 const Configurable& section);

}  // namespace sluice
