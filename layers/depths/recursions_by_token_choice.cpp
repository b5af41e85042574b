// Mixture-of-Recursions, token choice (Bae et al. 2025, arXiv 2507.10524): each token chooses at entry
// how often the group G (with its residuals) is applied to it. With R depths and router scores p:
//
//   d_t = the depth in 0 .. R - 1 that the router gives the token (top 1)
//   h^0 = x, h^{r+1} = G(h^r) over the tokens with d_t >= r;   x_t <- x_t + p_{t,d_t} h_t^{d_t + 1}
//
// Intermediate states are replaced, not weighted. A step attends to the keys and values of its own tokens
// (recursion-wise caching) or, with `key_values: shared`, to those that the first step made of all tokens
// (recursive sharing). Depths are chosen as experts are: the section takes a router, and the
// recipe's balancers keep the depths even (the paper: aux_loss 0.1 with router_z_loss 1e-5, or
// loss_free_bias). The choice is the token's own, so the same in training and in decoding.

#include <algorithm>
#include <vector>

#include "autograd/ops/elementwise.h"
#include "layers/depth.h"
#include "layers/routed_layer.h"
#include "layers/routers/top_k.h"
#include "layers/token_subset.h"

namespace sluice {
namespace {

struct TokenChoiceRecursionsConfig final : RoutingConfig {
  TokenChoiceRecursionsConfig()
      : RoutingConfig({"recursions", "most passes R of a token through the group"}) {
    num_experts = 3;
    top_k = 1.0;
    dynamic_cast<TopKRouterConfig&>(*router.config).weights = "as_is";
  }
  RecursionKeyValues key_values = RecursionKeyValues::own;
  void fields(FieldVisitor& v) override {
    count_fields(v);
    route_fields(v);
    key_values_field(v, key_values);
  }
  [[nodiscard]] std::string check() const override {
    if (!top_k.is_constant() || top_k.constant() != 1.0) {
      return "top_k: found something else, allowed 1: a token has one depth";
    }
    if (capacity_factor) return "capacity_factor: given, allowed none: no depth is full";
    const auto* scores = dynamic_cast<const TopKRouterConfig*>(router.config.get());
    if (scores != nullptr && scores->weights != "as_is") {
      return fmt::format(
          "router.weights: found {}, allowed as_is: of one depth the others weigh 1, which teaches "
          "the "
          "router nothing",
          scores->weights);
    }
    return RoutingConfig::check();
  }
};

class TokenChoiceRecursions final : public Depth {
 public:
  TokenChoiceRecursions(const Builder& b, int64_t hidden_size,
                        const TokenChoiceRecursionsConfig& config, const SublayerPlace& place)
      : key_values_(config.key_values),
        routed_(child(
            std::make_unique<RoutedLayer>(b, config, hidden_size, place.routed_layer, place))) {}

  [[nodiscard]] std::vector<RoutedLayer*> routed_layers() override { return {&routed_}; }

  BlockState forward(const ForwardContext& context, BlockState state,
                     DepthBody body) const override {
    Tape& tape = context.tape;
    const Tensor x = state.hidden;
    const Route route = routed_.route(context, x, state);
    const std::vector<int32_t>& depth = route.selection.expert;  // [N, 1]
    std::vector<int32_t> depth_of_row = depth;  // of the tokens that have come so far
    RecursionPasses passes(context, key_values_);
    std::shared_ptr<const TokenSubset> before;
    Tensor rows = x;
    for (int64_t step = 0; step < routed_.num_experts(); ++step) {
      const std::vector<uint8_t> going = at_least(depth, step);
      if (!context.training && std::ranges::count(going, 1) == 0) break;
      const auto of_rows = TokenSubset::of(before == nullptr ? context : before->context(context),
                                           at_least(depth_of_row, step));
      rows = of_rows->gather(tape, rows);
      std::erase_if(depth_of_row, [&](int32_t of_row) { return of_row < step; });
      const BlockState done = passes.run(body, of_rows, going, state_of(rows, state));
      before = of_rows;
      state.losses = done.losses;
      rows = done.hidden;
      state.hidden = add_finished(context, state.hidden, rows, depth, step, route.weights);
    }
    return state;
  }

  [[nodiscard]] bool shares_key_values() const override {
    return key_values_ == RecursionKeyValues::shared;
  }

 private:
  /// 1 where the depth is `step` or more.
  [[nodiscard]] static std::vector<uint8_t> at_least(std::span<const int32_t> depth, int64_t step) {
    std::vector<uint8_t> result;
    for (const int32_t of_token : depth) result.push_back(of_token >= step ? 1 : 0);
    return result;
  }

  /// hidden + p * rows for the tokens whose last step this is; `rows` are those of all tokens with a
  /// depth of at least `step`.
  [[nodiscard]] static Tensor add_finished(const ForwardContext& context, const Tensor& hidden,
                                           const Tensor& rows, const std::vector<int32_t>& depth,
                                           int64_t step, const Tensor& weights) {
    Tape& tape = context.tape;
    DispatchPlan plan;
    {
      std::vector<int32_t> slots;
      for (const int32_t of_token : depth) slots.push_back(of_token >= step ? 0 : -1);
      plan = make_dispatch_plan(tape.pool(), slots, std::ssize(depth), 1, 1);
    }
    Tensor ends = tape.zeros(weights.shape(), weights.dtype());
    if (ends.has_memory()) {
      dispatch_float(ends.dtype(), [&]<class T>() {
        std::ranges::transform(depth, ends.data<T>(),
                               [&](int32_t of_token) { return of_token == step ? T(1) : T(0); });
      });
    }
    return add(tape, hidden, combine(tape, rows, mul(tape, weights, ends), plan));
  }

  RecursionKeyValues key_values_;
  RoutedLayer& routed_;
};

}  // namespace

const DepthEntry recursions_by_token_choice_depth = {
    .name = "recursions_by_token_choice",
    .doc = "each token chooses how often the group is applied (Mixture-of-Recursions 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<TokenChoiceRecursionsConfig>();
    },
    .looks_ahead = false,
    .visits = [](const Configurable& config) -> int64_t {
      return dynamic_cast<const TokenChoiceRecursionsConfig&>(config).num_experts;
    },
    .make = [](const Builder& b, int64_t hidden_size, const Configurable& config,
               const SublayerPlace& place) -> std::unique_ptr<Depth> {
      return std::make_unique<TokenChoiceRecursions>(
          b, hidden_size, dynamic_cast<const TokenChoiceRecursionsConfig&>(config), place);
    },
    .shares_key_values =
        [](const Configurable& config) {
          return dynamic_cast<const TokenChoiceRecursionsConfig&>(config).key_values ==
                 RecursionKeyValues::shared;
        },
};

}  // namespace sluice
