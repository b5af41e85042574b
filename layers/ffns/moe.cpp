#include "layers/ffns/moe.h"

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "layers/experts.h"
#include "layers/ffns/dense.h"
#include "layers/model.h"
#include "layers/momentum.h"

namespace sluice {

void SharedExpertsConfig::fields(FieldVisitor& v) {
  v.integer({"num_experts", "experts that every token uses"}, num_experts, {.min = 1});
  v.integer({"intermediate_size", "hidden width of each"}, intermediate_size, {.min = 1});
  v.enumeration(
      {"combine",
       "with the routed experts: sum; learned, two weights per token from a softmax; or gated, the "
       "shared ones weighed per token by a sigmoid (Qwen2-MoE)"},
      combine, {{"sum", Combine::sum}, {"learned", Combine::learned}, {"gated", Combine::gated}});
}

std::unique_ptr<DenseFeedForward> make_shared_experts(const Builder& b, int64_t hidden_size,
                                                      const Configurable* config) {
  const auto* shared = dynamic_cast<const SharedExpertsConfig*>(config);
  if (shared == nullptr) return nullptr;
  DenseConfig dense;
  dense.intermediate_size = shared->num_experts * shared->intermediate_size;
  return std::make_unique<DenseFeedForward>(b.child("shared_experts"), hidden_size, dense);
}

std::unique_ptr<SparseState> make_sparse_state(const RoutedLayer& routed, const Experts& experts,
                                               Pool& pool, DType dtype, int64_t capacity) {
  auto state = std::make_unique<SparseState>();
  state->router = routed.make_state(pool, dtype, capacity);
  state->experts = experts.make_state(pool, dtype);
  return state->router == nullptr && state->experts == nullptr ? nullptr : std::move(state);
}

SparseContexts::SparseContexts(const ForwardContext& context) : router(context), experts(context) {
  const auto* memory = dynamic_cast<const SparseState*>(context.memory);
  router.memory = memory == nullptr ? nullptr : memory->router.get();
  experts.memory = memory == nullptr ? nullptr : memory->experts.get();
}

void DiversifyConfig::fields(FieldVisitor& v) {
  v.integer({"steps", "steps with one expert, which takes all tokens"}, steps, {.min = 1});
  v.number({"mask", "share of an expert's weights that are zeroed, others for each expert"}, mask,
           {.min = 0.0, .max = 1.0});
  v.number({"noise", "standard deviation of what is added to the weights, over theirs"}, noise,
           {.min = 0.0});
  v.enumeration({"moments", "the optimizer's moments of the new experts: copy or reset to zero"},
                moments, {{"copy", Moments::copy}, {"reset", Moments::reset}});
}

void ExpertsConfig::fields(FieldVisitor& v) {
  count_fields(v);
  v.integer({"intermediate_size", "hidden width F of one expert"}, intermediate_size, {.min = 1});
  v.tagged({"form", "what one expert is"}, form, experts_choices());
  v.optional_integer(
      {"pool_layers",
       "consecutive expert layers that share one pool of experts, each with a router "
       "of its own (UniPool); all: all of them"},
      pool_layers, {.min = 1}, "all");
  v.optional_object(
      {"shared", "experts that every token uses beside the routed ones"}, shared,
      [] { return std::make_shared<SharedExpertsConfig>(); }, "none");
  route_fields(v);
  v.optional_object(
      {"momentum",
       "the layer moves the residual stream by a momentum over expert layers (MomentumSMoE 2024); "
       "none: by its output"},
      momentum, [] { return std::make_shared<MomentumConfig>(); }, "none");
  v.optional_object(
      {"diversify",
       "begin dense, with one expert per layer, and make all experts from it later (EvoMoE 2021)"},
      diversify, [] { return std::make_shared<DiversifyConfig>(); }, "none");
}

std::string ExpertsConfig::check() const {
  if (diversify != nullptr && experts_registry().at(form.type).mixes_kinds) {
    return fmt::format(
        "diversify: given, but with form {} the experts are of several kinds, which one expert "
        "cannot "
        "become; allowed none",
        form.type);
  }
  return RoutingConfig::check();
}

namespace {

class MoeFeedForward final : public FeedForward {
 public:
  MoeFeedForward(const Builder& b, const ModelConfig& model, const ExpertsConfig& config,
                 SublayerPlace place)
      : momentum_(std::dynamic_pointer_cast<const MomentumConfig>(config.momentum)),
        diversify_(config.diversification()) {
    const int64_t d = model.hidden_size;
    std::unique_ptr<Experts> own;
    experts_ = place.pools == nullptr ? nullptr : place.pools->join(config, config.pool_layers);
    if (experts_ == nullptr) {
      own = make_experts(b.child("experts"), {config.num_experts, d, config.intermediate_size},
                         config.form);
      experts_ = own.get();
      if (place.pools != nullptr) place.pools->open(config, *experts_);
    }
    routed_ =
        &child(std::make_unique<RoutedLayer>(b, config, d, place.routed_layer, place, experts_));
    if (own != nullptr) child(std::move(own));
    if (auto shared = make_shared_experts(b, d, config.shared.get())) {
      shared_ = &child(std::move(shared));
      const auto& settings = dynamic_cast<const SharedExpertsConfig&>(*config.shared);
      if (settings.combine == SharedExpertsConfig::Combine::learned) {
        shares_ = &child(std::make_unique<Linear>(b, LinearSpec{"shares", d, 2, true}));
      }
      if (settings.combine == SharedExpertsConfig::Combine::gated) {
        shared_gate_ = &child(std::make_unique<Linear>(b, LinearSpec{"shared_gate", d, 1}));
      }
    }
  }

  [[nodiscard]] std::vector<Parameter*> routed_parameters() const override {
    return routed_only(experts_->parameters());
  }

  [[nodiscard]] std::vector<RoutedLayer*> routed_layers() override { return {routed_}; }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t capacity) const override {
    return make_sparse_state(*routed_, *experts_, pool, dtype, capacity);
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    const Tensor y = output(context, x, state);
    if (momentum_ == nullptr) return y;
    const PhaseScope phase(context.tape, Phase::experts);
    return momentum_step(context, *momentum_, routed_->layer() == 0, y, state);
  }

 private:
  /// y [N, D] of routed and shared experts.
  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& x,
                              BlockState& state) const {
    const SparseContexts contexts(context);
    if (diversify_ != nullptr && context.progress.step < diversify_->steps) {
      return with_shared_experts(context, x, run_one_expert(contexts.experts, x));
    }
    const Route route = routed_->route(contexts.router, x, state);
    const DispatchPlan plan = routed_->dispatch(context, route);
    Tensor y;
    {
      const PhaseScope phase(context.tape, Phase::experts);
      y = experts_->forward(contexts.experts, route.input, route.weights, plan);
    }
    return with_shared_experts(context, x, y);
  }

  [[nodiscard]] Tensor with_shared_experts(const ForwardContext& context, const Tensor& x,
                                           const Tensor& y) const {
    if (shared_ == nullptr) return y;
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::experts);
    Tensor shared = shared_->apply(context, x);
    if (shared_gate_ != nullptr) {
      const Tensor gate = sigmoid(tape, shared_gate_->forward(context, x));  // [N, 1]
      shared = mul_rows(tape, shared, reshape(tape, gate, {x.dim(0)}));
    }
    if (shares_ == nullptr) return add(tape, y, shared);
    const Tensor shares = softmax(tape, shares_->forward(context, x));  // [N, 2]
    const auto share = [&](int64_t side) {
      return reshape(tape, slice_columns(tape, shares, side, side + 1), {x.dim(0)});
    };
    return add(tape, mul_rows(tape, y, share(0)), mul_rows(tape, shared, share(1)));
  }

  /// Before the experts are spawned: the first one takes all tokens with weight 1.
  [[nodiscard]] Tensor run_one_expert(const ForwardContext& context, const Tensor& x) const {
    const Tensor input = routed_->bypass(context, x);
    const int64_t experts = routed_->num_experts();
    std::vector<int32_t> offsets(static_cast<size_t>(experts) + 1, static_cast<int32_t>(x.dim(0)));
    offsets[0] = 0;
    const PhaseScope phase(context.tape, Phase::experts);
    return experts_->forward(context, input,
                             Tensor::of<int32_t>(context.tape.pool(), {experts + 1}, offsets));
  }

  std::shared_ptr<const MomentumConfig> momentum_;
  std::shared_ptr<const DiversifyConfig> diversify_;
  RoutedLayer* routed_;
  Experts* experts_;
  DenseFeedForward* shared_ = nullptr;
  Linear* shares_ = nullptr;       // of routed and shared experts; null: both count whole
  Linear* shared_gate_ = nullptr;  // of the shared experts alone
};

}  // namespace

const FeedForwardEntry moe_feed_forward = {
    .name = "moe",
    .symbol = 'E',
    .section = "experts",
    .doc = "Mixture of Experts (Shazeer et al. 2017; DeepSeekMoE 2024; MegaBlocks 2022)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<ExpertsConfig>();
    },
    .check = check_attention_before,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<MoeFeedForward>(b, model, dynamic_cast<const ExpertsConfig&>(config),
                                              place);
    },
};

}  // namespace sluice
