// Mixture-of-Recursions, expert choice (Bae et al. 2025, arXiv 2507.10524): the group is applied up to
// R times, and before each time fewer tokens go on. Step r, with a router of its own:
//
//   s_t = alpha sigmoid(<theta_r, x_t> / temperature)
//   of the tokens that step r - 1 chose, the k_r = max(1, floor(c_r T)) of largest s in a document
//   x_t <- x_t + s_t G(x)_t   for the chosen, G the group with its residuals; the others keep theirs
//
// c_r = (R - r) / R for r = 0 .. R - 1 (1, 2/3, 1/3 for three). A step attends to the keys and values of
// its own tokens (the paper's recursion-wise caching) or, with `key_values: shared`, to those that the
// first step made of its tokens (recursive sharing). A choice by rank looks at later tokens: the
// binary cross-entropy of <theta_r, x_t> with the choice teaches the router, and in evaluation and
// decoding a token goes on while its logit is above 0 (the paper's auxiliary loss).

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/ops/elementwise.h"
#include "layers/depth.h"
#include "layers/linear.h"
#include "layers/token_subset.h"

namespace sluice {
namespace {

struct ExpertChoiceRecursionsConfig final : Configurable {
  int64_t recursions = 3;
  double alpha = 0.1;
  double temperature = 1.0;
  double coefficient = 1e-3;
  RecursionKeyValues key_values = RecursionKeyValues::own;
  void fields(FieldVisitor& v) override {
    v.integer({"recursions", "most passes R of a token through the group"}, recursions,
              {.min = 1, .max = 64});
    v.number({"alpha", "largest weight of a pass"}, alpha, {.min = 0.0, .exclusive_min = true});
    v.number({"temperature", "divides the router's logits"}, temperature,
             {.min = 0.0, .exclusive_min = true});
    v.number({"coefficient", "weight of the routers' binary cross-entropy"}, coefficient,
             {.min = 0.0});
    key_values_field(v, key_values);
  }
};

class ExpertChoiceRecursions final : public Depth {
 public:
  ExpertChoiceRecursions(const Builder& b, int64_t hidden_size,
                         const ExpertChoiceRecursionsConfig& config)
      : config_(config) {
    for (int64_t step = 0; step < config.recursions; ++step) {
      routers_.push_back(&child(
          std::make_unique<Linear>(b, LinearSpec{fmt::format("router_{}", step), hidden_size, 1})));
    }
  }

  BlockState forward(const ForwardContext& context, BlockState state,
                     DepthBody body) const override {
    Tape& tape = context.tape;
    RecursionPasses passes(context, config_.key_values);
    std::vector<uint8_t> going(static_cast<size_t>(context.layout.tokens()), 1);
    for (int64_t step = 0; step < config_.recursions; ++step) {
      const Tensor x = state.hidden;
      const Tensor logits = scale(tape, routers_[static_cast<size_t>(step)]->forward(context, x),
                                  1.0 / config_.temperature);
      std::vector<uint8_t> chosen;
      if (context.training || tape.shapes_only()) {
        chosen = choose_largest(context.layout, logits, going, [&](int64_t length) {
          return std::max<int64_t>(1, length * (config_.recursions - step) / config_.recursions);
        });
        if (context.training) {
          add_choice_loss(context, config_.coefficient, logits, chosen, going, state);
        }
      } else {
        chosen = choose_positive(logits, going);
      }
      if (!context.training && std::ranges::count(chosen, 1) == 0) return state;
      const auto subset = TokenSubset::of(context, chosen);
      const BlockState done =
          passes.run(body, subset, chosen, state_of(subset->gather(tape, x), state));
      const Tensor weights = scale(tape, sigmoid(tape, logits), config_.alpha);
      state.losses = done.losses;
      state.hidden = add(tape, x, subset->scatter(tape, done.hidden, weights));
      going = std::move(chosen);
    }
    return state;
  }

  [[nodiscard]] bool shares_key_values() const override {
    return config_.key_values == RecursionKeyValues::shared;
  }

 private:
  ExpertChoiceRecursionsConfig config_;
  std::vector<Linear*> routers_;
};

}  // namespace

const DepthEntry recursions_by_expert_choice_depth = {
    .name = "recursions_by_expert_choice",
    .doc = "the group is applied again to ever fewer tokens (Mixture-of-Recursions 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<ExpertChoiceRecursionsConfig>();
    },
    .looks_ahead = true,
    .visits = [](const Configurable& config) -> int64_t {
      return dynamic_cast<const ExpertChoiceRecursionsConfig&>(config).recursions;
    },
    .make = [](const Builder& b, int64_t hidden_size, const Configurable& config,
               const SublayerPlace&) -> std::unique_ptr<Depth> {
      return std::make_unique<ExpertChoiceRecursions>(
          b, hidden_size, dynamic_cast<const ExpertChoiceRecursionsConfig&>(config));
    },
    .shares_key_values =
        [](const Configurable& config) {
          return dynamic_cast<const ExpertChoiceRecursionsConfig&>(config).key_values ==
                 RecursionKeyValues::shared;
        },
};

}  // namespace sluice
