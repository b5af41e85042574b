// MoE-X: routes to the experts that will be sparsest on the token (Yang et al. 2025, "Mixture of
// Experts Made Intrinsically Interpretable", arXiv 2503.07639; the formulas are reconstructed from
// its text [R]).
//
// The input weights of an expert's F neurons count as draws of one Gaussian per input coordinate,
// of mean m_e and variance v_e over the neurons (both [D]). Pre-activations of x are then
// N(mu, s^2):
//
//   mu_e = m_e x,   s_e^2 = sum_d v_ed x_d^2,   P(active) = (1 + erf(mu_e / (2^(1/2) s_e))) / 2
//   a_e = -erf(mu_e / (2^(1/2) s_e));   top-k of a;   w = softmax over the chosen a
//
// There is no router matrix. m and v are computed from the experts' weights at every pass and are
// constants (the weights get no gradient from here), x gets one. The paper's experts are ReLU
// networks without a gate; ours are SwiGLU, whose neurons are active where the argument of SiLU is
// positive, so m and v are those of `w_gate` [R]. Losses see softmax(a). Cost: two reads of the
// neurons' weights per micro-batch.

#include <numbers>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "layers/router.h"
#include "layers/routers/choose.h"

namespace sluice {
namespace {

/// Added to s^2, for a token of zeros.
constexpr double kVarianceEpsilon = 1e-12;

struct MoeXConfig final : RouterConfig {
  void fields(FieldVisitor& /*v*/) override {}
  [[nodiscard]] std::string check_against(int64_t /*num_experts*/,
                                          int64_t /*top_k*/) const override {
    return {};
  }
};

/// m and v of every expert, [E, D] each.
struct NeuronStatistics {
  Tensor mean;
  Tensor variance;
};

/// Of `weights` [F, D], by summing over neurons in order.
template <class T>
void neuron_statistics(int64_t neurons, int64_t width, const T* weights, T* mean, T* variance) {
  ArenaScope scratch(thread_arena());
  double* sums = scratch.allocate<double>(width);
  const auto average = [&](auto value, T* result) {
    std::fill_n(sums, width, 0.0);
    for (int64_t f = 0; f < neurons; ++f) {
      for (int64_t d = 0; d < width; ++d) sums[d] += value(f * width + d, d);
    }
    for (int64_t d = 0; d < width; ++d) {
      result[d] = static_cast<T>(sums[d] / static_cast<double>(neurons));
    }
  };
  average([&](int64_t i, int64_t) { return static_cast<double>(weights[i]); }, mean);
  average(
      [&](int64_t i, int64_t d) {
        const double deviation = static_cast<double>(weights[i]) - static_cast<double>(mean[d]);
        return deviation * deviation;
      },
      variance);
}

NeuronStatistics neuron_statistics(Tape& tape, const Tensor& weights) {
  const int64_t experts = weights.dim(0);
  const int64_t neurons = weights.dim(1);
  const int64_t width = weights.dim(2);
  NeuronStatistics result{tape.empty({experts, width}, weights.dtype()),
                          tape.empty({experts, width}, weights.dtype())};
  if (!weights.has_memory()) return result;
  dispatch_float(weights.dtype(), [&]<class T>() {
    const T* values = weights.data<T>();
    T* mean = result.mean.data<T>();
    T* variance = result.variance.data<T>();
    parallel_for(experts, [&](int64_t e) {
      neuron_statistics<T>(neurons, width, values + e * neurons * width, mean + e * width,
                           variance + e * width);
    });
  });
  return result;
}

class MoeXRouter final : public Router {
 public:
  MoeXRouter(const Builder& /*b*/, const RouterSetup& setup, const MoeXConfig& /*config*/)
      : neuron_weights_(setup.experts == nullptr ? nullptr : setup.experts->neuron_weights()) {
    SLUICE_CHECK(ConfigError, neuron_weights_ != nullptr,
                 "model.experts.router: found moe_x, allowed for experts that are layers of "
                 "neurons only");
  }

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const NeuronStatistics neurons = neuron_statistics(tape, neuron_weights_->value);
    const Tensor mu = linear(tape, x, neurons.mean);
    const Tensor variance =
        add_constant(tape, linear(tape, square(tape, x), neurons.variance), kVarianceEpsilon);
    const Tensor inverse = exp(tape, scale(tape, log(tape, variance), -0.5));  // 1 / s
    const Tensor z = scale(tape, mul(tape, mu, inverse), 1.0 / std::numbers::sqrt2);
    const Tensor sparsity = scale(tape, erf(tape, z), -1.0);
    const Tensor scores = softmax(tape, sparsity);
    return {sparsity, scores, scores};
  }

  void choose(const ForwardContext& /*context*/, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    choose_top_k(scores.scores, shift, top_k, selection);
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    Tape& tape = context.tape;
    return softmax(tape, gather_last(tape, scores.logits, expert_index(tape.pool(), selection)));
  }

 private:
  const Parameter* neuron_weights_;  // [E, F, D]
};

}  // namespace

const RouterEntry moe_x_router = {
    .name = "moe_x",
    .doc = "the experts whose neurons will be sparsest on the token (MoE-X 2025, arXiv 2503.07639)",
    .make_config = make_router_config<MoeXConfig>,
    .make = make_router<MoeXRouter, MoeXConfig>,
};

}  // namespace sluice
