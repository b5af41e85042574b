#include "layers/routers/extended.h"

#include <limits>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "layers/routers/choose.h"

namespace sluice {

void ExtendedConfig::fields(FieldVisitor& v) {
  TopKRouterConfig::fields(v);
  v.integer({"num_new", "experts that were added, the last ones"}, num_new, {.min = 1});
  v.integer({"calibration", "width of the correction of the weights (paper: 16); 0: none"},
            calibration, {.min = 0});
  v.optional_duration({"masked",
                       "the first part of the run, in which the new experts are not chosen; "
                       "none: they are from the start (paper)"},
                      masked, "none");
}

std::string ExtendedConfig::check() const {
  if (scores != "softmax") return fmt::format("scores: found {}, allowed softmax", scores);
  if (weights != "renormalise" && weights != "as_is") {
    return fmt::format("weights: found {}, allowed renormalise or as_is", weights);
  }
  return TopKRouterConfig::check();
}

std::string ExtendedConfig::check_against(int64_t num_experts, int64_t top_k) const {
  if (num_new >= num_experts) {
    return fmt::format("num_new: found {}, allowed 1 to {} (num_experts - 1)", num_new,
                       num_experts - 1);
  }
  if (masked && top_k > num_experts - num_new) {
    return fmt::format(
        "masked: given, but top_k is {} and {} of the {} experts are left while the new ones are "
        "masked",
        top_k, num_experts - num_new, num_experts);
  }
  return TopKRouterConfig::check_against(num_experts, top_k);
}

namespace {

class ExtendedRouter final : public TopKRouter {
 public:
  ExtendedRouter(const Builder& b, const RouterSetup& setup, const ExtendedConfig& config)
      : TopKRouter(b, setup, config),
        old_(setup.num_experts - config.num_new),
        config_(config) {
    if (config.calibration > 0) {
      first_ = &parameter(b, "calibration_in", {config.calibration, setup.num_experts},
                          ParameterKind::router);
      second_ = &parameter(b, "calibration_out", {setup.num_experts, config.calibration},
                           ParameterKind::router, Init::zeros());
    }
  }

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor z = linear(tape, router_input(context, x), tape.use(weight_));
    if (!config_.masks(context.progress)) return from_logits(context, z);
    const Tensor p = softmax(tape, slice_columns(tape, z, 0, old_));
    const Tensor parts[] = {p, tape.zeros({x.dim(0), z.dim(1) - old_}, z.dtype())};
    const Tensor scores = concat_columns(tape, parts);
    return {z, scores, scores};
  }

  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    if (!config_.masks(context.progress)) {
      return TopKRouter::choose(context, scores, shift, top_k, selection);
    }
    choose_top_k(scores.scores, shift, top_k, selection, [this](std::span<double> biased) {
      std::fill(biased.begin() + old_, biased.end(), -std::numeric_limits<double>::infinity());
    });
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    Tape& tape = context.tape;
    Tensor c = scores.scores;
    if (first_ != nullptr) {
      const Tensor inner = gelu_tanh(tape, linear(tape, c, tape.use(*first_)));
      c = add(tape, c, linear(tape, inner, tape.use(*second_)));
    }
    Tensor weights = gather_last(tape, c, expert_index(tape.pool(), selection));
    if (config_.weights == "renormalise") weights = normalise_rows(tape, weights, 0.0);
    return config_.scale == 1.0 ? weights : scale(tape, weights, config_.scale);
  }

 private:
  int64_t old_;
  ExtendedConfig config_;
  Parameter* first_ = nullptr;   // [C, E]
  Parameter* second_ = nullptr;  // [E, C]
};

}  // namespace

const RouterEntry extended_router = {
    .name = "extended",
    .doc = "top-k with calibrated weights, for experts added to a trained model (MoExtend 2024, arXiv "
           "2408.03511)",
    .make_config = make_router_config<ExtendedConfig>,
    .make = make_router<ExtendedRouter, ExtendedConfig>,
};

}  // namespace sluice
