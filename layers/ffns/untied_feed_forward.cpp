// Feed-forward of a Mixture-of-Transformers (Liang et al. 2024, arXiv 2411.04996): one SwiGLU, and the
// norms round it, for each modality.
//
//   y = post_m(Wd_m (silu(Wg_m h) * (Wu_m h))),   h = pre_m(x),   m the token's modality
//
// The published code has the norm behind; `norm` says which there are. What `auto` gives as the width F
// is that of the published models: two thirds of 4 D, rounded up to a multiple of 256.

#include "autograd/ops/swiglu_experts.h"
#include "layers/modalities.h"
#include "layers/model.h"

namespace sluice {
namespace {

constexpr int64_t kWidthStep = 256;

/// `model.untied_feed_forward`, or a variant of this type.
struct UntiedFeedForwardConfig final : Configurable {
  std::optional<int64_t> intermediate_size;
  UntiedNorms norm = UntiedNorms::pre;
  void fields(FieldVisitor& v) override {
    v.optional_integer({"intermediate_size",
                        "width F of the hidden layer (auto: two thirds of 4 hidden_size, up to a "
                        "multiple of 256)"},
                       intermediate_size, {.min = 1}, "auto");
    visit_untied_norms(v, norm);
  }
  [[nodiscard]] int64_t width(int64_t hidden_size) const {
    const int64_t whole = 2 * 4 * hidden_size / 3;
    return intermediate_size.value_or((whole + kWidthStep - 1) / kWidthStep * kWidthStep);
  }
};

/// Parameters, each stacked by modality: "<path>.w_gate" and "w_up" [R, F, D], "w_down" [R, D, F],
/// "pre_norm" and "post_norm" [R, D].
class UntiedFeedForward final : public FeedForward {
 public:
  UntiedFeedForward(const Builder& b, const ModelConfig& model,
                    const UntiedFeedForwardConfig& config)
      : modalities_(num_modalities(model)),
        norms_(child(std::make_unique<UntiedBlockNorms>(b, model, config.norm))) {
    const int64_t d = model.hidden_size;
    const int64_t width = config.width(d);
    const auto stacked = [&](const char* name, int64_t out, int64_t in, Init init) {
      return &parameter(b, name, {modalities_, out, in}, ParameterKind::matrix, init,
                        Stack::modalities);
    };
    w_gate_ = stacked("w_gate", width, d, {});
    w_up_ = stacked("w_up", width, d, {});
    w_down_ = stacked("w_down", d, width, Init::residual());
  }

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::feed_forward);
    const ModalityRows rows(context, modalities_);
    const Tensor in = norms_.before(tape, rows.gather(tape, x), rows);
    const Tensor y = swiglu_experts(
        tape, in, {tape.use(*w_gate_), tape.use(*w_up_), tape.use(*w_down_)}, rows.offsets);
    return rows.scatter(tape, norms_.behind(tape, y, rows));
  }

 private:
  int64_t modalities_;
  const UntiedBlockNorms& norms_;
  Parameter* w_gate_;
  Parameter* w_up_;
  Parameter* w_down_;
};

}  // namespace

const FeedForwardEntry untied_feed_forward_feed_forward = {
    .name = "untied_feed_forward",
    .symbol = kNoSymbol,
    .section = "untied_feed_forward",
    .doc = "a SwiGLU for each modality (Mixture-of-Transformers 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<UntiedFeedForwardConfig>();
    },
    .check = [](const ModelConfig& model,
                const Configurable&) { return check_untied_norms(model); },
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<FeedForward> {
      return std::make_unique<UntiedFeedForward>(
          b.child("untied_feed_forward"), model,
          dynamic_cast<const UntiedFeedForwardConfig&>(config));
    },
    .by_modality = true,
    .normalises = true,
};

}  // namespace sluice
