// Mixture-of-Depths (Raposo et al. 2024, arXiv 2404.02258): of each document the group processes the
// C tokens of largest router weight, C = ceil(capacity * T), and the others pass it by:
//
//   r_t = <w, x_t>,   x_t <- x_t + r_t (G(x)_t - x_t)   for the chosen, G the group with its residuals
//
// Attention inside the group sees the chosen tokens only, at their own positions. A choice by rank
// looks at later tokens, so in evaluation and decoding a token is processed where a predictor says
// that it would have been: sigmoid(u_t) > 1/2, u_t = <p, stop_gradient(x_t)>, learned by the binary
// cross-entropy with the choices of training; or, with `predictor: router`, by r_t itself, which then
// gets that cross-entropy (section 3.5, both forms).
//
// Ours: the paper ranks within a sequence; documents of a packed sequence are ranked apart here, so
// that they stay isolated. At least one token of each document is chosen.

#include <algorithm>
#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reshape.h"
#include "layers/depth.h"
#include "layers/linear.h"
#include "layers/token_subset.h"

namespace sluice {
namespace {

struct MixtureOfDepthsConfig final : Configurable {
  enum class Predictor : uint8_t { separate, router };
  double capacity = 0.125;
  Predictor predictor = Predictor::separate;
  double coefficient = 0.01;
  void fields(FieldVisitor& v) override {
    v.number({"capacity", "share of a document's tokens that the group processes in training"},
             capacity, {.min = 0.0, .max = 1.0, .exclusive_min = true});
    v.enumeration({"predictor",
                   "who chooses in evaluation: separate, a linear layer that learns the choices of "
                   "training, or router, whose own weights learn them"},
                  predictor, {{"separate", Predictor::separate}, {"router", Predictor::router}});
    v.number({"coefficient", "weight of the predictor's binary cross-entropy"}, coefficient,
             {.min = 0.0});
  }
};

class MixtureOfDepths final : public Depth {
 public:
  MixtureOfDepths(const Builder& b, int64_t hidden_size, const MixtureOfDepthsConfig& config)
      : config_(config),
        router_(child(std::make_unique<Linear>(b, LinearSpec{"router", hidden_size, 1}))) {
    if (config.predictor == MixtureOfDepthsConfig::Predictor::separate) {
      predictor_ = &child(std::make_unique<Linear>(b, LinearSpec{"predictor", hidden_size, 1}));
    }
  }

  BlockState forward(const ForwardContext& context, BlockState state,
                     DepthBody body) const override {
    Tape& tape = context.tape;
    const Tensor x = state.hidden;
    const Tensor weights = router_.forward(context, x);  // [N, 1]
    const Tensor logits =
        predictor_ == nullptr ? weights : predictor_->forward(context, stop_gradient(tape, x));
    std::vector<uint8_t> chosen;
    if (context.training || tape.shapes_only()) {
      chosen = choose_largest(context.layout, weights, {}, [&](int64_t length) {
        return static_cast<int64_t>(std::ceil(config_.capacity * static_cast<double>(length)));
      });
      if (context.training)
        add_choice_loss(context, config_.coefficient, logits, chosen, {}, state);
    } else {
      chosen = choose_positive(logits, {});
    }
    if (!context.training && std::ranges::count(chosen, 1) == 0) return state;
    const auto subset = TokenSubset::of(context, chosen);
    const Tensor rows = subset->gather(tape, x);
    const BlockState done = body(subset->context(context), state_of(rows, state), 0);
    state.losses = done.losses;
    state.hidden = add(tape, x, subset->scatter(tape, sub(tape, done.hidden, rows), weights));
    return state;
  }

 private:
  MixtureOfDepthsConfig config_;
  Linear& router_;
  Linear* predictor_ = nullptr;
};

}  // namespace

const DepthEntry mixture_of_depths_depth = {
    .name = "mixture_of_depths",
    .doc = "the group processes a share of each document's tokens (Raposo et al. 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<MixtureOfDepthsConfig>();
    },
    .looks_ahead = true,
    .visits = [](const Configurable&) -> int64_t { return 1; },
    .make = [](const Builder& b, int64_t hidden_size, const Configurable& config,
               const SublayerPlace&) -> std::unique_ptr<Depth> {
      return std::make_unique<MixtureOfDepths>(b, hidden_size,
                                               dynamic_cast<const MixtureOfDepthsConfig&>(config));
    },
};

}  // namespace sluice
