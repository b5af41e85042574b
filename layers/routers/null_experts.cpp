// AdaMoE: null experts, which do nothing and cost nothing (Zeng et al. 2024, "AdaMoE: Token-Adaptive
// Routing with Null Experts", arXiv 2406.13233).
//
//   p = softmax(z) over E true and Z null experts; top-k of all;
//   w_i = p_i / sum of the chosen true p: a token that chose null experts only gets 0
//
// Null choices are empty slots. At balance a token uses k E / (E + Z) true experts, so k is larger
// than without nulls. The method's own loss is balance: null_expert_loss; other methods see the
// true experts only (their scores p, their probabilities p over the true sum), router_z_loss all
// E + Z logits. A balancer's shift moves the true experts. `num_null_experts: 0` is the plain router.

#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "layers/routers/choose.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

/// Lets the row of a token without true experts be 0 over 0 in weight.
constexpr double kRowSumEpsilon = 1e-20;

struct NullExpertsConfig final : TopKRouterConfig {
  int64_t num_null_experts = 4;

  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.integer({"num_null_experts", "experts Z that do nothing, beside the true ones"},
              num_null_experts, {.min = 0, .max = 65536});
  }
  /// At first any k of the E + Z are equally likely; so they are at balance.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query) const override {
    const auto k = static_cast<double>(query.top_k);
    const auto true_experts = static_cast<double>(query.num_experts);
    const auto null_experts = static_cast<double>(num_null_experts);
    return ActiveExperts::at_initial_values(k * true_experts / (true_experts + null_experts),
                                            std::max(0.0, k - null_experts), k);
  }
  [[nodiscard]] std::string check() const override {
    if (scores != "softmax") {
      return fmt::format("scores: found {}, allowed softmax (over true and null experts)", scores);
    }
    if (weights == "softmax_after") {
      return "weights: found softmax_after, allowed renormalise or as_is (slots may be empty)";
    }
    return {};
  }
  [[nodiscard]] bool varies_k() const override { return num_null_experts > 0; }
};

/// The same layer with a row of W for every null expert.
RouterSetup with_null_experts(RouterSetup setup, int64_t null_experts) {
  setup.num_experts += null_experts;
  return setup;
}

class NullExpertsRouter final : public TopKRouter {
 public:
  NullExpertsRouter(const Builder& b, const RouterSetup& setup, const NullExpertsConfig& config)
      : TopKRouter(b, with_null_experts(setup, config.num_null_experts), config),
        experts_(setup.num_experts),
        null_experts_(config.num_null_experts),
        renormalises_(config.weights == "renormalise"),
        scale_(config.scale) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const RouterScores all = TopKRouter::score(context, x);
    if (null_experts_ == 0) return all;
    const int64_t end = experts_ + null_experts_;
    const Tensor scores = slice_columns(tape, all.scores, 0, experts_);
    return {.logits = slice_columns(tape, all.logits, 0, experts_),
            .scores = scores,
            .probabilities = normalise_rows(tape, scores, kRowSumEpsilon),
            .null_scores = slice_columns(tape, all.scores, experts_, end),
            .null_logits = slice_columns(tape, all.logits, experts_, end)};
  }

  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    if (null_experts_ == 0) {
      TopKRouter::choose(context, scores, shift, top_k, selection);
      return;
    }
    const NoGrad no_grad(context.tape);
    const Tensor all[] = {scores.scores, scores.null_scores};
    choose_top_k(concat_columns(context.tape, all), shift_of_all(shift), top_k, selection);
    selection.experts = experts_;
    for (int32_t& expert : selection.expert) {
      if (expert >= experts_) expert = kNoExpert;
    }
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    Tape& tape = context.tape;
    const Tensor index = expert_index(tape.pool(), selection);
    Tensor weights = gather_last(tape, scores.scores, index);
    if (renormalises_) weights = normalise_rows(tape, weights, kRowSumEpsilon);
    return scale_ == 1.0 ? weights : scale(tape, weights, scale_);
  }

 private:
  /// The shift of the true experts, and none for the null experts after them.
  [[nodiscard]] std::vector<double> shift_of_all(std::span<const double> shift) const {
    std::vector<double> result;
    const auto experts = static_cast<size_t>(experts_);
    for (; !shift.empty(); shift = shift.subspan(experts)) {
      const auto of_true = shift.first(experts);
      result.insert(result.end(), of_true.begin(), of_true.end());
      result.resize(result.size() + static_cast<size_t>(null_experts_), 0.0);
    }
    return result;
  }

  int64_t experts_;
  int64_t null_experts_;
  bool renormalises_;
  double scale_;
};

}  // namespace

const RouterEntry null_experts_router = {
    .name = "null_experts",
    .doc = "top-k among true experts and experts that do nothing (AdaMoE 2024, arXiv 2406.13233)",
    .make_config = make_router_config<NullExpertsConfig>,
    .make = make_router<NullExpertsRouter, NullExpertsConfig>,
};

}  // namespace sluice
