// Union of Experts (Yang et al. 2025, arXiv 2503.02495), UoME: a dense feed-forward of width F cut into E
// slices, each an expert of width F / E, of which only some run.
//
//   y = sum over chosen e of g_e Wd_e f(Wu_e x),   Wu_e rows e w .. (e + 1) w - 1 of Wu, w = F / E
//
// Expert selection: `router: {type: document_mean}`, the experts of a document; data selection: `router:
// {type: document_share}`, an expert's tokens within a document. Both in a causal form by default (see
// there); any other router may choose too. Without gate_output g = 1, as in the released code, and nothing
// teaches the router but what balances it; all experts chosen are then the dense layer, exactly. The slices
// are of the form that `form` names: the published one is {type: mlp, activation: gelu_tanh}.

#include "layers/ffns/moe.h"
#include "layers/model.h"
#include "layers/routers/unit_rows.h"

namespace sluice {
namespace {

/// `model.union_of_experts`, or a variant of this type.
struct UnionConfig final : RoutingConfig {
  int64_t intermediate_size = 768;
  Tagged form = default_experts();
  bool gate_output = true;

  UnionConfig() : RoutingConfig({"num_experts", "slices E of the dense layer"}) {
    num_experts = 8;
    top_k = 4.0;
    const RouterEntry& entry = router_registry().at("document_mean");
    router = {std::string(entry.name), std::shared_ptr<Configurable>(entry.make_config())};
  }
  void fields(FieldVisitor& v) override {
    v.integer({"intermediate_size", "hidden width F of all experts together"}, intermediate_size,
              {.min = 1});
    count_fields(v);
    v.tagged({"form", "what the dense layer is, and each of its slices"}, form, experts_choices());
    v.boolean(
        {"gate_output", "an expert's output times its weight; false: experts are only chosen"},
        gate_output);
    route_fields(v);
  }
  [[nodiscard]] std::string check() const override {
    if (intermediate_size % num_experts != 0) {
      return fmt::format("intermediate_size: found {}, allowed a multiple of {} (num_experts)",
                         intermediate_size, num_experts);
    }
    return RoutingConfig::check();
  }
};

class UnionOfExperts final : public FeedForward {
 public:
  UnionOfExperts(const Builder& b, const ModelConfig& model, const UnionConfig& config,
                 const SublayerPlace& place)
      : gate_output_(config.gate_output) {
    const int64_t d = model.hidden_size;
    auto experts = make_experts(
        b.child("experts"), {config.num_experts, d, config.intermediate_size / config.num_experts},
        config.form);
    routed_ = &child(
        std::make_unique<RoutedLayer>(b, config, d, place.routed_layer, place, experts.get()));
    experts_ = &child(std::move(experts));
  }

  [[nodiscard]] std::vector<RoutedLayer*> routed_layers() override { return {routed_}; }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t capacity) const override {
    return make_sparse_state(*routed_, *experts_, pool, dtype, capacity);
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    const SparseContexts contexts(context);
    const Route route = routed_->route(contexts.router, x, state);
    const DispatchPlan plan = routed_->dispatch(context, route);
    const PhaseScope phase(context.tape, Phase::experts);
    const Tensor weights =
        gate_output_ ? route.weights
                     : filled(context.tape, route.weights.shape(), route.weights.dtype(), 1.0);
    return experts_->forward(contexts.experts, route.input, weights, plan);
  }

 private:
  bool gate_output_;
  RoutedLayer* routed_;
  Experts* experts_;
};

}  // namespace

const FeedForwardEntry union_of_experts_feed_forward = {
    .name = "union_of_experts",
    .symbol = kNoSymbol,
    .section = "union_of_experts",
    .doc = "slices of a dense layer, chosen by document (Union of Experts 2025, arXiv 2503.02495)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<UnionConfig>();
    },
    .check = check_attention_before,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<UnionOfExperts>(b, model, dynamic_cast<const UnionConfig&>(config),
                                              place);
    },
};

}  // namespace sluice
