#include "layers/routers/top_k.h"

#include <algorithm>
#include <array>

#include "autograd/ops/dropout.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "layers/routers/choose.h"

namespace sluice {
namespace {

/// Added to the sum of sigmoid scores before dividing (DeepSeek-V3's reference value).
constexpr double kSigmoidSumEpsilon = 1e-20;

/// [N, k]: 1 where the slot has an expert.
Tensor filled_slots(Tape& tape, const Selection& selection, DType dtype) {
  Tensor slots = tape.empty({selection.tokens, selection.top_k}, dtype);
  if (!slots.has_memory()) return slots;
  dispatch_float(dtype, [&]<class T>() {
    std::ranges::transform(selection.expert, slots.data<T>(),
                           [](int32_t expert) { return expert == kNoExpert ? T{0} : T{1}; });
  });
  return slots;
}

}  // namespace

void TopKRouterConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kScores = {"softmax", "sigmoid"};
  static constexpr std::array<std::string_view, 4> kWeights = {"renormalise", "as_is",
                                                               "softmax_after", "straight_through"};
  v.word({"scores", "score function of the logits: softmax, or sigmoid (DeepSeek-V3)"}, scores,
         kScores);
  v.word({"weights",
          "combine weights: renormalise (divide by the chosen scores' sum), as_is, or "
          "softmax_after (softmax over the chosen logits), or straight_through (1, with the "
          "gradient of "
          "as_is)"},
         weights, kWeights);
  v.number({"scale", "factor on the combine weights (DeepSeek-V3: 2.5)"}, scale,
           {.min = 0.0, .exclusive_min = true});
  v.scheduled(
      {"jitter", "router input times Uniform(1 - jitter, 1 + jitter) in training (Switch: 0.01)"},
      jitter, {.min = 0.0, .max = 1.0});
}

std::string TopKRouterConfig::check() const {
  if (scores == "sigmoid" && weights == "softmax_after") {
    return "weights: found softmax_after with sigmoid scores, allowed renormalise or as_is";
  }
  return {};
}

std::string TopKRouterConfig::check_against(int64_t /*num_experts*/, int64_t top_k) const {
  const bool has_gradient = weights == "as_is" || weights == "straight_through";
  if (top_k == 1 && scores == "softmax" && !has_gradient) {
    return fmt::format("top_k: 1 with {} weights gives the router no gradient; use weights: as_is",
                       weights);
  }
  return {};
}

TopKRouter::TopKRouter(const Builder& b, const RouterSetup& setup, const TopKRouterConfig& config)
    : weight_(
          parameter(b, "weight", {setup.num_experts, setup.hidden_size}, ParameterKind::router)),
      layer_(setup.layer),
      config_(config) {}

Tensor TopKRouter::router_input(const ForwardContext& context, const Tensor& x) const {
  const double epsilon = context.training ? config_.jitter.at(context.progress) : 0.0;
  if (epsilon == 0.0) return x;
  const SequenceLayout& layout = context.layout;
  return jitter(context.tape, x, epsilon,
                {context.random_key(RandomPurpose::router_jitter, layer_), layout.sequence_offsets,
                 layout.global_samples});
}

RouterScores TopKRouter::from_logits(const ForwardContext& context, const Tensor& logits) const {
  Tape& tape = context.tape;
  if (config_.scores == "softmax") {
    const Tensor probabilities = softmax(tape, logits);
    return {logits, probabilities, probabilities};
  }
  const Tensor scores = sigmoid(tape, logits);
  return {logits, scores, normalise_rows(tape, scores, kSigmoidSumEpsilon)};
}

RouterScores TopKRouter::score(const ForwardContext& context, const Tensor& x) const {
  Tape& tape = context.tape;
  return from_logits(context, linear(tape, router_input(context, x), tape.use(weight_)));
}

void TopKRouter::choose(const ForwardContext& /*context*/, const RouterScores& scores,
                        std::span<const double> shift, int64_t top_k, Selection& selection) const {
  choose_top_k(scores.scores, shift, top_k, selection);
}

Tensor TopKRouter::combine_weights(const ForwardContext& context, const RouterScores& scores,
                                   const Selection& selection) const {
  Tape& tape = context.tape;
  const Tensor index = expert_index(tape.pool(), selection);
  Tensor weights;
  if (config_.weights == "softmax_after") {
    weights = softmax(tape, gather_last(tape, scores.logits, index));
  } else {
    weights = gather_last(tape, scores.scores, index);
    // A single sigmoid score is not normalised (DeepSeek-V3's reference code): it would be 1
    // without a gradient.
    const bool sigmoid_alone = config_.scores == "sigmoid" && selection.top_k == 1;
    if (config_.weights == "renormalise" && !sigmoid_alone) {
      weights =
          normalise_rows(tape, weights, config_.scores == "sigmoid" ? kSigmoidSumEpsilon : 0.0);
    }
  }
  if (config_.weights == "straight_through") {
    // w - stop_gradient(w) + 1
    const Tensor nothing = sub(tape, weights, stop_gradient(tape, weights));
    weights = add(tape, nothing, filled_slots(tape, selection, weights.dtype()));
  }
  return config_.scale == 1.0 ? weights : scale(tape, weights, config_.scale);
}

const RouterEntry top_k_router = {
    .name = "top_k",
    .doc =
        "linear router, top-k of softmax or sigmoid scores (Shazeer et al. 2017; DeepSeek-V3 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<TopKRouterConfig>();
    },
    .make = [](const Builder& b, const RouterSetup& setup,
               const Configurable& config) -> std::unique_ptr<Router> {
      return std::make_unique<TopKRouter>(b, setup, dynamic_cast<const TopKRouterConfig&>(config));
    },
};

}  // namespace sluice
