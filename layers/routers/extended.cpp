// The router of a model that experts were added to (MoExtend, Zhong et al. 2024, arXiv 2408.03511):
//
//   p = softmax(x W^T),   top-k of p,   c = p + A2 gelu(A1 p),   weights: c of the chosen over their sum
//
// The calibration A1 [16, E], A2 [E, 16] corrects the weights for the rows that came in; A2 is 0 at
// first, where c = p. Renormalising needs weights: renormalise; with as_is the weights are c.
//
// The row of a new expert starts as that of the expert it was cloned from (`upcycle.scheme: extend`),
// so the two tie, and for tokens that choose them the clone takes the place of their k-th expert: the
// paper's way, which does not keep the function. `masked` keeps it: up to that point of the run the
// newest `num_new` experts have score 0 and are not chosen, and the softmax is over the others [R].
//
// Letters: N tokens, E experts.

#include <limits>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "layers/routers/choose.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

struct ExtendedConfig final : TopKRouterConfig {
  int64_t num_new = 1;
  int64_t calibration = 16;
  std::optional<Duration> masked;

  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.integer({"num_new", "experts that were added, the last ones"}, num_new, {.min = 1});
    v.integer({"calibration", "width of the correction of the weights (paper: 16); 0: none"},
              calibration, {.min = 0});
    v.optional_duration({"masked",
                         "the first part of the run, in which the new experts are not chosen; "
                         "none: they are from the start (paper)"},
                        masked, "none");
  }
  [[nodiscard]] std::string check() const override {
    if (scores != "softmax") return fmt::format("scores: found {}, allowed softmax", scores);
    if (weights != "renormalise" && weights != "as_is") {
      return fmt::format("weights: found {}, allowed renormalise or as_is", weights);
    }
    return TopKRouterConfig::check();
  }
  [[nodiscard]] std::string check_against(int64_t num_experts, int64_t top_k) const override {
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
};

class ExtendedRouter final : public TopKRouter {
 public:
  ExtendedRouter(const Builder& b, const RouterSetup& setup, const ExtendedConfig& config)
      : TopKRouter(b, setup, config),
        old_(setup.num_experts - config.num_new),
        masked_(config.masked),
        renormalises_(config.weights == "renormalise"),
        scale_(config.scale) {
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
    if (!masks(context)) return from_logits(context, z);
    const Tensor p = softmax(tape, slice_columns(tape, z, 0, old_));
    const Tensor parts[] = {p, tape.zeros({x.dim(0), z.dim(1) - old_}, z.dtype())};
    const Tensor scores = concat_columns(tape, parts);
    return {z, scores, scores};
  }

  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    if (!masks(context)) return TopKRouter::choose(context, scores, shift, top_k, selection);
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
    if (renormalises_) weights = normalise_rows(tape, weights, 0.0);
    return scale_ == 1.0 ? weights : scale(tape, weights, scale_);
  }

 private:
  [[nodiscard]] bool masks(const ForwardContext& context) const {
    return masked_ && masked_->elapsed(context.progress) < masked_->count;
  }

  int64_t old_;
  std::optional<Duration> masked_;
  bool renormalises_;
  double scale_;
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
