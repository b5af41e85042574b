// Chain-of-Experts (Wang et al. 2025, arXiv 2506.18945): the tokens of a layer go through its experts
// C times, routed anew each time by a router of its own.
//
//   x^0 = norm(h),   x^t = I x^{t-1} + sum over chosen e of g_{t,e} FFN_e(x^{t-1}) + Shared(x^{t-1})
//
// The experts are the same in all iterations; `top_k` is that of one, so C iterations of K / C cost
// what one of K costs. I is 1 with `inner_residual`, else 0. Nothing is normalised in between. What goes
// on is, by `outer`: `preserve` (ours), h + x^C - x^0, the residual stream of a pre-norm model; or
// `reference`, x^C itself, as in the published code. With C = 1 and `preserve` it is the sparse
// feed-forward of moe.h but for the residual, which is then exact.

#include "autograd/ops/elementwise.h"
#include "layers/experts.h"
#include "layers/ffns/dense.h"
#include "layers/ffns/moe.h"
#include "layers/model.h"
#include "layers/routed_layer.h"

namespace sluice {
namespace {

/// `model.chain_of_experts`, or a variant of this type.
struct ChainConfig final : RoutingConfig {
  enum class Outer : uint8_t { preserve, reference };
  int64_t iterations = 2;
  int64_t intermediate_size = 256;
  Tagged form = default_experts();
  std::shared_ptr<Configurable> shared;  // SharedExpertsConfig, or null
  bool inner_residual = true;
  Outer outer = Outer::preserve;
  void fields(FieldVisitor& v) override {
    v.integer({"iterations", "passes C through the experts"}, iterations, {.min = 1, .max = 64});
    count_fields(v);
    v.integer({"intermediate_size", "hidden width F of one expert"}, intermediate_size, {.min = 1});
    v.tagged({"form", "what one expert is"}, form, experts_choices());
    v.optional_object(
        {"shared", "experts that every token uses in every iteration"}, shared,
        [] { return std::make_shared<SharedExpertsConfig>(); }, "none");
    route_fields(v);
    v.boolean({"inner_residual", "an iteration adds to its input"}, inner_residual);
    v.enumeration({"outer",
                   "preserve: the residual stream goes on by the difference to its norm; "
                   "reference: by the last iteration alone, as published"},
                  outer, {{"preserve", Outer::preserve}, {"reference", Outer::reference}});
  }
  [[nodiscard]] int64_t num_routed_layers(const ModelConfig& /*model*/) const override {
    return iterations;
  }
};

/// What router and experts keep, by iteration.
struct ChainState final : FeedForwardState {
  std::vector<std::unique_ptr<FeedForwardState>> iterations;
};

class ChainOfExperts final : public FeedForward {
 public:
  ChainOfExperts(const Builder& b, const ModelConfig& model, const ChainConfig& config,
                 const SublayerPlace& place)
      : inner_residual_(config.inner_residual), outer_(config.outer) {
    const int64_t d = model.hidden_size;
    auto experts = make_experts(b.child("experts"),
                                {config.num_experts, d, config.intermediate_size}, config.form);
    for (int64_t t = 0; t < config.iterations; ++t) {
      routed_.push_back(
          &child(std::make_unique<RoutedLayer>(b.child(fmt::format("iterations.{}", t)), config, d,
                                               place.routed_layer + t, place, experts.get())));
    }
    experts_ = &child(std::move(experts));
    if (auto shared = make_shared_experts(b, d, config.shared.get())) {
      shared_ = &child(std::move(shared));
    }
  }

  [[nodiscard]] std::vector<RoutedLayer*> routed_layers() override { return routed_; }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t capacity) const override {
    auto state = std::make_unique<ChainState>();
    for (const RoutedLayer* routed : routed_) {
      state->iterations.push_back(make_sparse_state(*routed, *experts_, pool, dtype, capacity));
    }
    return state;
  }

  Tensor forward(const ForwardContext& caller, const Tensor& x, BlockState& state) const override {
    Tape& tape = caller.tape;
    const auto* memory = dynamic_cast<ChainState*>(caller.memory);
    Tensor at = x;
    for (size_t t = 0; t < routed_.size(); ++t) {
      ForwardContext context = caller;
      context.memory = memory == nullptr ? nullptr : memory->iterations[t].get();
      const SparseContexts contexts(context);
      const Route route = routed_[t]->route(contexts.router, at, state);
      const DispatchPlan plan = routed_[t]->dispatch(context, route);
      const PhaseScope phase(tape, Phase::experts);
      Tensor next = experts_->forward(contexts.experts, route.input, route.weights, plan);
      if (shared_ != nullptr) next = add(tape, next, shared_->apply(context, at));
      at = inner_residual_ ? add(tape, at, next) : next;
    }
    return sub(tape, at, outer_ == ChainConfig::Outer::preserve ? x : state.hidden);
  }

 private:
  bool inner_residual_;
  ChainConfig::Outer outer_;
  std::vector<RoutedLayer*> routed_;
  Experts* experts_;
  DenseFeedForward* shared_ = nullptr;
};

}  // namespace

const FeedForwardEntry chain_of_experts_feed_forward = {
    .name = "chain_of_experts",
    .symbol = kNoSymbol,
    .section = "chain_of_experts",
    .doc = "experts passed through several times, routed anew each time (Chain-of-Experts 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<ChainConfig>();
    },
    .check = check_attention_before,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<ChainOfExperts>(b, model, dynamic_cast<const ChainConfig&>(config),
                                              place);
    },
};

}  // namespace sluice
