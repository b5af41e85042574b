// Experts on a narrower stream, BigMac (2025, arXiv 2502.16927; Megatron's latent MoE has the same
// wiring): tokens are brought down before they are dispatched and up after they are combined, so that
// r numbers of a token travel instead of D.
//
//   u = Wdown x [r],   y = Wup sum over chosen e of g_e FFN_e(u),   FFN_e: r -> F -> r, SwiGLU
//
// Router and shared experts read the whole x. With r = D and both maps the identity it is the standard
// layer. As many parameters as experts of width F_0 on D have those of width F = F_0 D / r here. Sizes
// are reconstructed: the page gives the structure and r = D / 4.

#include <optional>

#include "autograd/ops/matmul.h"
#include "layers/experts/swiglu.h"
#include "layers/linear.h"

namespace sluice {
namespace {

struct NarrowConfig final : Configurable {
  std::optional<int64_t> size;
  void fields(FieldVisitor& v) override {
    v.optional_integer({"size", "width r that the experts work on (auto: hidden_size / 4)"}, size,
                       {.min = 1}, "auto");
  }
};

class NarrowExperts final : public Experts {
 public:
  NarrowExperts(const Builder& b, const ExpertsSetup& setup, const NarrowConfig& config) {
    const int64_t d = setup.hidden_size;
    const int64_t r = config.size.value_or(std::max<int64_t>(1, d / 4));
    descend_ = &child(std::make_unique<Linear>(b, LinearSpec{"descend", d, r}));
    inner_ = &child(std::make_unique<SwigluExperts>(
        b, ExpertsSetup{setup.num_experts, r, setup.intermediate_size}));
    ascend_ =
        &child(std::make_unique<Linear>(b, LinearSpec{"ascend", r, d, false, Init::residual()}));
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, const Tensor& weights,
                 const DispatchPlan& plan) const override {
    const Tensor u = descend_->forward(context, x);
    return ascend_->forward(context, inner_->forward(context, u, weights, plan));
  }
  Tensor forward(const ForwardContext& context, const Tensor& x,
                 const Tensor& offsets) const override {
    const Tensor u = descend_->forward(context, x);
    return ascend_->forward(context, inner_->forward(context, u, offsets));
  }

 private:
  Linear* descend_;
  SwigluExperts* inner_;
  Linear* ascend_;
};

}  // namespace

const ExpertsEntry narrow_form = {
    .name = "narrow",
    .doc = "SwiGLU on a narrower stream, brought down before dispatch and up after (BigMac 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<NarrowConfig>();
    },
    .make = [](const Builder& b, const ExpertsSetup& setup,
               const Configurable& config) -> std::unique_ptr<Experts> {
      return std::make_unique<NarrowExperts>(b, setup, dynamic_cast<const NarrowConfig&>(config));
    },
};

}  // namespace sluice
