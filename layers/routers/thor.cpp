// THOR: random experts (Zuo et al. 2021, "Taming Sparsely Activated Transformer with Stochastic
// Experts", arXiv 2110.04260).
//
//   training: one expert per layer, step and pass, uniform over E, shared by the whole batch; w = 1
//   evaluation: every token, or every sequence, draws an expert per layer; or all E experts, w = 1/E
//
// There is no router and nothing to balance: loads are uniform over many steps, not within one. The
// paper trains with two passes of every batch, of independent draws, and adds the symmetric
// divergence of their outputs to the loss: `train.consistency` (train/step.h), under which each
// pass draws an expert of its own. Draws in evaluation follow from the sequence's number and the
// position in its document, so that decoding sees those of the full pass. `evaluation: average`
// takes the mean of the experts' outputs, which costs E experts per token and draws nothing.
// Balancers that shift the ranking have no say.

#include "autograd/ops/top_k.h"
#include "layers/router.h"
#include "layers/routers/choose.h"
#include "layers/routers/unit_rows.h"

namespace sluice {
namespace {

enum class Evaluation : uint8_t { token, sequence, average };

struct ThorConfig final : RouterConfig {
  Evaluation evaluation = Evaluation::token;

  void fields(FieldVisitor& v) override {
    v.enumeration({"evaluation",
                   "who draws an expert in evaluation: every token or every sequence; average: "
                   "nobody, every token takes the mean of all experts, at their full cost"},
                  evaluation,
                  {{"token", Evaluation::token},
                   {"sequence", Evaluation::sequence},
                   {"average", Evaluation::average}});
  }
  [[nodiscard]] std::string check_against(int64_t /*num_experts*/, int64_t top_k) const override {
    if (top_k == 1) return {};
    return fmt::format("top_k: found {}, allowed 1 (router thor draws one expert)", top_k);
  }
  [[nodiscard]] bool is_fixed() const override { return true; }
};

class ThorRouter final : public Router {
 public:
  ThorRouter(const Builder& /*b*/, const RouterSetup& setup, const ThorConfig& config)
      : layer_(setup.layer), experts_(setup.num_experts), evaluation_(config.evaluation) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    if (averages(context)) {
      const Tensor equal = filled(context.tape, {x.dim(0), experts_}, x.dtype(),
                                  1.0 / static_cast<double>(experts_));
      return {equal, equal, equal};
    }
    Tensor scores = context.tape.zeros({x.dim(0), experts_}, x.dtype());
    if (!scores.has_memory()) return {scores, scores, scores};
    dispatch_float(x.dtype(), [&]<class T>() {
      T* values = scores.data<T>();
      for_each_draw(context, [&](int64_t token, int64_t expert) {
        values[token * experts_ + expert] = T{1};
      });
    });
    return {scores, scores, scores};
  }

  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> /*shift*/, int64_t top_k,
              Selection& selection) const override {
    choose_top_k(scores.scores, {}, averages(context) ? experts_ : top_k, selection);
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    return gather_last(context.tape, scores.scores, expert_index(context.tape.pool(), selection));
  }

 private:
  [[nodiscard]] bool averages(const ForwardContext& context) const {
    return !context.training && evaluation_ == Evaluation::average;
  }

  /// Calls body(token, expert) for every token.
  template <class Body>
  void for_each_draw(const ForwardContext& context, Body&& body) const {
    const SequenceLayout& layout = context.layout;
    const RandomKey key = context.random_key(RandomPurpose::router_choice, layer_);
    const auto draw = [&](uint64_t sample, uint64_t index) {
      return static_cast<int64_t>(
          uniform_below(key, sample, index, static_cast<uint64_t>(experts_)));
    };
    const auto positions = layout.positions.span<int32_t>();
    for (size_t s = 0; s < layout.global_samples.size(); ++s) {
      const int64_t of_pass =
          draw(0, static_cast<uint64_t>(layout.pass_of(static_cast<int64_t>(s))));
      for (int64_t t = layout.sequence_offsets[s]; t < layout.sequence_offsets[s + 1]; ++t) {
        if (context.training) {
          body(t, of_pass);
        } else {
          const auto position = static_cast<uint64_t>(positions[static_cast<size_t>(t)]);
          body(t, draw(layout.global_samples[s], evaluation_ == Evaluation::token ? position : 0));
        }
      }
    }
  }

  int64_t layer_;
  int64_t experts_;
  Evaluation evaluation_;
};

}  // namespace

const RouterEntry thor_router = {
    .name = "thor",
    .doc = "one random expert per layer and step, for train.consistency (Zuo et al. 2021, THOR)",
    .make_config = make_router_config<ThorConfig>,
    .make = make_router<ThorRouter, ThorConfig>,
};

}  // namespace sluice
