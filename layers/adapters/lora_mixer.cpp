// LoRA-Mixer (2025, arXiv 2507.00029): LoRA experts on the projections of attention or of a state space,
// chosen hard and taught soft [R: the method page gives both regimes, the published repository no code].
//
//   forward g = the combine weights of the chosen experts;  backward as if g = p = softmax(x Wr^T)
//   router loss: lambda mean over tokens of H(p), which sharpens each token's choice, beside a balancing
//   method over the global batch (global_aux_loss: E sum f_e p_e)
//
// Regime 1 trains experts and router together. Regime 2 keeps experts that were trained elsewhere, and
// trains the router alone: train.freeze: ["*.adapters.*.w_a", "*.adapters.*.w_b"].

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/reshape.h"
#include "layers/adapters/routed_low_rank.h"

namespace sluice {
namespace {

/// Keeps log p finite; p log p is 0 there to rounding.
constexpr double kLeastProbability = 1e-12;

struct LoraMixerConfig final : LoraExpertsConfig {
  Scheduled entropy = 1e-2;
  void fields(FieldVisitor& v) override {
    LoraExpertsConfig::fields(v);
    v.scheduled({"entropy", "lambda: weight of the entropy of each token's routing, minimised"},
                entropy, {.min = 0.0});
  }
};

class LoraMixer final : public LoraExperts {
 public:
  LoraMixer(const Builder& b, const AdapterSetup& setup, const LoraMixerConfig& config)
      : LoraExperts(b, setup, config), entropy_(config.entropy) {}

 private:
  [[nodiscard]] Tensor expert_gates(const ForwardContext& context, const Route& route,
                                    const Tensor& weights) const override {
    Tape& tape = context.tape;
    const Tensor& p = route.scores.probabilities;
    add_entropy(context, p);
    // p + (g - p), of which only the first term has a gradient.
    return add(tape, p, stop_gradient(tape, sub(tape, weights, p)));
  }

  void add_entropy(const ForwardContext& context, const Tensor& p) const {
    const double lambda = entropy_.at(context.progress);
    if (lambda == 0.0 || !context.training || context.routing->counting()) return;
    Tape& tape = context.tape;
    const Tensor plogp = mul(tape, p, log(tape, add_constant(tape, p, kLeastProbability)));
    const Tensor counted = mul_rows(tape, plogp, counted_tokens(context, p.dtype()));
    const double weight = -lambda / static_cast<double>(context.valid_tokens);
    context.block->add_loss(tape, {LossKind::balance, scale(tape, sum(tape, counted), weight)});
  }

  /// [N]: 1 for tokens with a loss.
  static Tensor counted_tokens(const ForwardContext& context, DType dtype) {
    const auto& counted = context.layout.counted;
    Tensor marks = context.tape.empty({static_cast<int64_t>(counted.size())}, dtype);
    if (!marks.has_memory()) return marks;
    dispatch_float(dtype, [&]<class T>() {
      const auto out = marks.span<T>();
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<T>(counted[i]);
    });
    return marks;
  }

  Scheduled entropy_;
};

}  // namespace

const AdapterEntry lora_mixer_adapter = {
    .name = "lora_mixer",
    .doc =
        "LoRA experts chosen hard and taught soft, with a routing entropy loss (LoRA-Mixer 2025, "
        "arXiv 2507.00029)",
    .make_config = make_adapter_config<LoraMixerConfig>,
    .make = make_adapter<LoraMixer, LoraMixerConfig>,
};

}  // namespace sluice
