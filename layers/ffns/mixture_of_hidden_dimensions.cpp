// Mixture of hidden dimensions, MoHD [R]: a wide residual stream of which a layer works, for each token, on a
// few blocks of coordinates only (reconstructed by section 9.5 of the method page).
//
// The stream is cut into S shared and E routed blocks of w = D / (S + E) coordinates. A token uses the shared
// blocks and k of the routed ones, which the router chooses from the whole x:
//
//   h = silu(a sum over used b of Wg_b x_b) * (a sum over used b of Wu_b x_b)   [F]
//   y_b = g_b Wd_b h for used b, g_b = 1 for the shared ones;   y_b = 0 for the others
//
// so that the residual stream keeps what was not used. a is what the sums lack: D / d, d = (S + k) w
// (`scaling: mean`, which keeps the expectation of a linear map of random blocks), its root (`root`, which
// keeps the variance), or 1 (`none`). With every block used, a = 1 and g = 1 it is the dense SwiGLU layer of
// width D. The page leaves open how the router learns; here g is k times its combine weight, 1 where the
// chosen blocks are scored alike (as in the mixture of heads). Its map that mixes the blocks afterwards,
// the identity at first, is left out. The balance of blocks is a balancer's business.
//
// Letters: N tokens, D hidden size, F hidden width, R = N k rows.

#include <algorithm>
#include <array>
#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/swiglu.h"
#include "autograd/ops/top_k.h"
#include "layers/ffns/routed_feed_forward.h"
#include "layers/linear.h"
#include "layers/model.h"
#include "layers/routers/unit_rows.h"

namespace sluice {
namespace {

enum class Scaling : uint8_t { mean, root, none };

/// `model.mixture_of_hidden_dimensions`, or a variant of this type.
struct HiddenDimensionsConfig final : RoutingConfig {
  int64_t shared_blocks = 2;
  int64_t intermediate_size = 768;
  Scaling scaling = Scaling::mean;

  HiddenDimensionsConfig() : RoutingConfig({"num_blocks", "routed blocks E of coordinates"}) {
    num_experts = 6;
    top_k = 2.0;
  }
  void fields(FieldVisitor& v) override {
    v.integer({"shared_blocks", "blocks S that every token uses"}, shared_blocks, {.min = 0});
    count_fields(v);
    v.integer({"intermediate_size", "hidden width F"}, intermediate_size, {.min = 1});
    v.enumeration(
        {"scaling",
         "of the input by D / d, the share of coordinates that a token uses: mean, by all of "
         "it; root, by its root; none"},
        scaling, {{"mean", Scaling::mean}, {"root", Scaling::root}, {"none", Scaling::none}});
    route_fields(v);
  }
};

class MixtureOfHiddenDimensions final : public RoutedFeedForward {
 public:
  MixtureOfHiddenDimensions(const Builder& b, const ModelConfig& model,
                            const HiddenDimensionsConfig& config, const SublayerPlace& place)
      : S_(config.shared_blocks),
        E_(config.num_experts),
        F_(config.intermediate_size),
        w_(model.hidden_size / (S_ + E_)),
        scaling_(config.scaling) {
    routed_ = &child(
        std::make_unique<RoutedLayer>(b, config, model.hidden_size, place.routed_layer, place));
    const Builder own = b.child("blocks");
    if (S_ > 0) {
      shared_in_ = &child(std::make_unique<Linear>(own, LinearSpec{"shared_in", S_ * w_, 2 * F_}));
      shared_out_ = &child(std::make_unique<Linear>(
          own, LinearSpec{"shared_out", F_, S_ * w_, false, Init::residual()}));
    }
    in_ =
        &parameter(own, "w_in", {E_, 2 * F_, w_}, ParameterKind::matrix, {}, Stack::routed_experts);
    out_ = &parameter(own, "w_out", {E_, w_, F_}, ParameterKind::matrix, Init::residual(),
                      Stack::routed_experts);
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    Tape& tape = context.tape;
    const Route route = routed_->route(context, x, state);
    const DispatchPlan of_tokens = routed_->dispatch(context, route);
    const PhaseScope phase(tape, Phase::experts);
    const int64_t tokens = x.dim(0);
    const DispatchPlan of_blocks = block_plan(context, route);
    const Tensor blocks =
        reshape(tape, slice_columns(tape, route.input, S_ * w_, (S_ + E_) * w_), {tokens * E_, w_});
    // Rows of both plans stand in the same order: by block, then by token.
    const Tensor in =
        grouped_matmul(tape, dispatch(tape, blocks, of_blocks), tape.use(*in_), of_tokens.offsets);
    Tensor sums = combine(tape, in, filled(tape, route.weights.shape(), x.dtype(), 1.0), of_tokens);
    if (S_ > 0) {
      sums = add(tape, sums,
                 shared_in_->forward(context, slice_columns(tape, route.input, 0, S_ * w_)));
    }
    const double factor = factor_of(route.selection.top_k);
    if (factor != 1.0) sums = scale(tape, sums, factor);
    const Tensor hidden =
        swiglu(tape, slice_columns(tape, sums, 0, F_), slice_columns(tape, sums, F_, 2 * F_));
    const Tensor out =
        grouped_matmul(tape, dispatch(tape, hidden, of_tokens), tape.use(*out_), of_tokens.offsets);
    const auto k = static_cast<double>(route.selection.top_k);
    const Tensor weights = reshape(tape,
                                   scatter_last(tape, scale(tape, route.weights, k),
                                                expert_index(tape.pool(), route.selection), E_),
                                   {tokens * E_, 1});
    const Tensor routed = reshape(tape, combine(tape, out, weights, of_blocks), {tokens, E_ * w_});
    if (S_ == 0) return routed;
    const std::array<Tensor, 2> y{shared_out_->forward(context, hidden), routed};
    return concat_columns(tape, y);
  }

 private:
  /// Of the N E blocks of all tokens, those that are used, each to itself.
  [[nodiscard]] DispatchPlan block_plan(const ForwardContext& context, const Route& route) const {
    const Selection& selection = route.selection;
    const std::vector<int32_t>& chosen =
        selection.dispatched.empty() ? selection.expert : selection.dispatched;
    ArenaScope scratch(thread_arena());
    const int64_t count = selection.tokens * E_;
    const std::span<int32_t> used(scratch.allocate<int32_t>(count), static_cast<size_t>(count));
    std::ranges::fill(used, kNoExpert);
    for (int64_t slot = 0; slot < std::ssize(chosen); ++slot) {
      const int32_t e = chosen[static_cast<size_t>(slot)];
      if (e != kNoExpert) used[static_cast<size_t>(slot / selection.top_k * E_ + e)] = e;
    }
    return make_dispatch_plan(context.tape.pool(), used, count, 1, E_);
  }

  [[nodiscard]] double factor_of(int64_t k) const {
    const double lack = static_cast<double>(S_ + E_) / static_cast<double>(S_ + k);
    if (scaling_ == Scaling::none) return 1.0;
    return scaling_ == Scaling::mean ? lack : std::sqrt(lack);
  }

  int64_t S_;
  int64_t E_;
  int64_t F_;
  int64_t w_;
  Scaling scaling_;
  Linear* shared_in_ = nullptr;
  Linear* shared_out_ = nullptr;
  Parameter* in_;   // [E, 2 F, w]: Wg_b, then Wu_b
  Parameter* out_;  // [E, w, F]
};

std::string check_blocks(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const HiddenDimensionsConfig&>(section);
  const int64_t blocks = config.shared_blocks + config.num_experts;
  if (model.hidden_size % blocks != 0) {
    return fmt::format(
        "num_blocks: found {} with {} shared_blocks, allowed numbers whose sum divides hidden_size "
        "({})",
        config.num_experts, config.shared_blocks, model.hidden_size);
  }
  return check_attention_before(model, section);
}

}  // namespace

const FeedForwardEntry mixture_of_hidden_dimensions_feed_forward = {
    .name = "mixture_of_hidden_dimensions",
    .symbol = kNoSymbol,
    .section = "mixture_of_hidden_dimensions",
    .doc = "a feed-forward on some blocks of a wide residual stream (MoHD 2024, reconstructed)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<HiddenDimensionsConfig>();
    },
    .check = check_blocks,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<MixtureOfHiddenDimensions>(
          b, model, dynamic_cast<const HiddenDimensionsConfig&>(config), place);
    },
};

}  // namespace sluice
