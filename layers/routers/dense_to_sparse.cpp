// The dense-to-sparse gate of EvoMoE (Nie et al. 2021, "EvoMoE: An Evolutional Mixture-of-Experts
// Training Framework via Dense-To-Sparse Gate", arXiv 2112.14397).
//
//   g = softmax((z + noise) / tau),   m_i = 1 where g_i > kappa,   w = m softmax(z)   or   w = m g
//
// with Gumbel noise in training. tau falls by a schedule, from dense to sparse:
// `{type: linear, from: 1, to: 0.5}`. From `one_expert_after` on, m is the argmax of g alone.
// The weights are not renormalised. `top_k` is the most that a token may use; the paper sets no
// limit (num_experts); what it does not use costs nothing. At least the best expert is used.
//
// Evaluation is the paper's: the best expert of softmax(z), without noise. That says little about a
// model that is dense in training, so `evaluation: threshold` evaluates with the training mask,
// without noise [R]. A balancer's shift moves the ranking; the number of experts above kappa is
// that of the unshifted g [R]. tau may also fall by `{type: exponential, from: 2, to: 0.3}`. The
// paper's loss, E sum_i mean_t(w_ti) mean_t(m_ti), is that of aux_loss with `fractions: tokens`,
// which takes softmax(z) for w where m is 0, too. The paper's first phase, one shared expert from
// which all are made, is `experts.diversify`.
//
// With one slot (`top_k: 1`) and weights: gate it is the sample-top-1 routing of Branch-Train-MiX
// (Sukhbaatar et al. 2024, arXiv 2403.07816): an expert is drawn by softmax(z) in training and weighed
// by its Gumbel-softmax, while tau = max(0.5, e^(-rt)), r = 1e-4 (`{type: exponential, from: 1,
// to: 0.5, over: 6931 steps}`; the paper prints max(0.5, -rt)).

#include <algorithm>
#include <cmath>
#include <optional>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "autograd/support/parallel.h"
#include "layers/router.h"
#include "layers/routers/choose.h"
#include "layers/routers/initial_logits.h"

namespace sluice {
namespace {

enum class Weights : uint8_t { softmax, gate };
enum class Evaluation : uint8_t { best, threshold };

/// Gumbel(0, 1) from Uniform(0, 1); at 0 the logarithm is not finite.
double gumbel(double u) { return -std::log(-std::log(std::max(u, 0x1p-54))); }

struct DenseToSparseConfig final : RouterConfig {
  Scheduled temperature = 1.0;
  Scheduled noise = 1.0;
  Scheduled threshold = 1e-3;
  Weights weights = Weights::softmax;
  std::optional<Duration> one_expert_after;
  Evaluation evaluation = Evaluation::best;

  void fields(FieldVisitor& v) override {
    v.scheduled({"temperature", "tau, which divides the noisy logits (paper: falling to 0.5)"},
                temperature, {.min = 0.0, .exclusive_min = true});
    v.scheduled({"noise", "factor on the Gumbel noise, in training (paper: 1)"}, noise,
                {.min = 0.0});
    v.scheduled({"threshold", "kappa: experts take part whose gate is above it"}, threshold,
                {.min = 0.0, .max = 1.0});
    v.enumeration({"weights", "softmax: of the logits without noise and temperature; gate: g"},
                  weights, {{"softmax", Weights::softmax}, {"gate", Weights::gate}});
    v.optional_duration({"one_expert_after",
                         "from then on every token uses its best expert only; "
                         "none: the threshold decides to the end"},
                        one_expert_after, "none");
    v.enumeration({"evaluation", "best: one expert (paper); threshold: those above the threshold"},
                  evaluation, {{"best", Evaluation::best}, {"threshold", Evaluation::threshold}});
  }
  /// Counts as `choose` does, on initial logits and noise.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query) const override {
    const Progress& progress = query.progress;
    if (one_expert_after && one_expert_after->elapsed(progress) >= one_expert_after->count) {
      return ActiveExperts::exactly(1.0);
    }
    const double factor = noise.at(progress);
    const double tau = temperature.at(progress);
    const double kappa = threshold.at(progress);
    const auto greatest = static_cast<double>(query.top_k);
    const double expected = mean_over_initial_logits(
        query.num_experts, query.initial_logit_std, [&](std::span<double> g, uint64_t sample) {
          for (size_t e = 0; e < g.size(); ++e) {
            const double u = uniform(kInitialLogitsKey, sample + (uint64_t{1} << 32), e);
            g[e] = (g[e] + factor * gumbel(u)) / tau;
          }
          softmax_inplace(g);
          const auto above = std::ranges::count_if(g, [&](double x) { return x > kappa; });
          return std::clamp(static_cast<double>(above), 1.0, greatest);
        });
    return ActiveExperts::at_initial_values(expected, 1.0, greatest);
  }
  [[nodiscard]] std::string check_against(int64_t /*num_experts*/,
                                          int64_t /*top_k*/) const override {
    return {};
  }
  [[nodiscard]] bool varies_k() const override { return true; }
};

/// Gumbel(0, 1) noise [N, E], keyed by sequence and position like every random number of a token.
Tensor gumbel_noise(const ForwardContext& context, const Tensor& like, int64_t layer) {
  Tensor noise = context.tape.empty(like.shape(), like.dtype());
  if (!noise.has_memory()) return noise;
  const RandomKey key = context.random_key(RandomPurpose::router_noise, layer);
  const SequenceLayout& layout = context.layout;
  const int64_t experts = like.dim(1);
  dispatch_float(like.dtype(), [&]<class T>() {
    T* values = noise.data<T>();
    parallel_for(layout.sequences(), [&](int64_t s) {
      const auto sequence = static_cast<size_t>(s);
      const int64_t begin = layout.sequence_offsets[sequence] * experts;
      const int64_t end = layout.sequence_offsets[sequence + 1] * experts;
      for (int64_t i = begin; i < end; ++i) {
        values[i] = static_cast<T>(gumbel(
            uniform(key, layout.global_samples[sequence], static_cast<uint64_t>(i - begin))));
      }
    });
  });
  return noise;
}

class DenseToSparseRouter final : public Router {
 public:
  DenseToSparseRouter(const Builder& b, const RouterSetup& setup, const DenseToSparseConfig& config)
      : weight_(
            parameter(b, "weight", {setup.num_experts, setup.hidden_size}, ParameterKind::router)),
        layer_(setup.layer),
        config_(config) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor z = linear(tape, x, tape.use(weight_));
    Tensor noisy = z;
    const double factor = context.training ? config_.noise.at(context.progress) : 0.0;
    if (factor > 0.0) noisy = add_scaled(tape, z, gumbel_noise(context, z, layer_), factor);
    const Tensor gate =
        softmax(tape, scale(tape, noisy, 1.0 / config_.temperature.at(context.progress)));
    return {z, gate, config_.weights == Weights::gate ? gate : softmax(tape, z)};
  }

  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    choose_top_k(scores.scores, shift, top_k, selection);
    if (!scores.scores.has_memory()) return;
    if (uses_one_expert(context)) {
      keep_first(selection, [](int64_t, std::span<const int32_t>) -> int64_t { return 1; });
      return;
    }
    const double threshold = config_.threshold.at(context.progress);
    dispatch_float(scores.scores.dtype(), [&]<class T>() {
      const T* gate = scores.scores.data<T>();
      keep_first(selection, [&](int64_t token, std::span<const int32_t>) {
        int64_t above = 0;
        for (int64_t e = token * selection.experts; e < (token + 1) * selection.experts; ++e) {
          above += static_cast<double>(gate[e]) > threshold ? 1 : 0;
        }
        return std::clamp<int64_t>(above, 1, selection.top_k);
      });
    });
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    return gather_last(context.tape, scores.probabilities,
                       expert_index(context.tape.pool(), selection));
  }

 private:
  [[nodiscard]] bool uses_one_expert(const ForwardContext& context) const {
    if (!context.training && config_.evaluation == Evaluation::best) return true;
    const auto& after = config_.one_expert_after;
    return after && after->elapsed(context.progress) >= after->count;
  }

  Parameter& weight_;  // [E, D]
  int64_t layer_;
  DenseToSparseConfig config_;
};

}  // namespace

const RouterEntry dense_to_sparse_router = {
    .name = "dense_to_sparse",
    .doc =
        "all experts above a threshold, fewer as the temperature falls (EvoMoE 2021, arXiv "
        "2112.14397)",
    .make_config = make_router_config<DenseToSparseConfig>,
    .make = make_router<DenseToSparseRouter, DenseToSparseConfig>,
};

}  // namespace sluice
