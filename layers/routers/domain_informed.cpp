// The domain-informed router of FlexOlmo (Shi et al. 2025, arXiv 2507.07024): experts that were trained
// apart, each beside the public expert 0, are put side by side.
//
//   z_0 = r_0 x,   z_i = r_i x + min(b_i, 0),   scores = softmax(z) over the experts that are there
//
// A row r_i starts as the mean embedding of its domain's documents (`upcycle.router`), so that a row, a
// bias and a feed-forward are all that an expert consists of: they can be added and taken out one by one.
// The bias can only hold an expert back. It starts a little below 0 [R], where it has a gradient; that of
// expert 0 stands for nothing and stays 0.
//
// Letters: N tokens, E experts.

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

constexpr double kInitialBias = -2e-3;

class DomainInformedRouter final : public TopKRouter {
 public:
  DomainInformedRouter(const Builder& b, const RouterSetup& setup, const TopKRouterConfig& config)
      : TopKRouter(b, setup, config),
        bias_(parameter(b, "bias", {setup.num_experts}, ParameterKind::bias, Init::zeros())) {
    b.fill(bias_, [](int64_t e, double) { return e == 0 ? 0.0 : kInitialBias; });
  }

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor z = linear(tape, router_input(context, x), tape.use(weight_));
    // min(b, 0) = -relu(-b)
    const Tensor held_back =
        scale(tape, relu(tape, scale(tape, mul(tape, tape.use(bias_), owned(tape)), -1.0)), -1.0);
    return from_logits(context, add_bias(tape, z, held_back));
  }

 private:
  /// [E]: 0 for the public expert, 1 for the others.
  [[nodiscard]] Tensor owned(Tape& tape) const {
    Tensor mask = tape.empty(bias_.value.shape(), bias_.value.dtype());
    if (!mask.has_memory()) return mask;
    dispatch_float(mask.dtype(), [&]<class T>() {
      for (T& value : mask.span<T>()) value = T{1};
      mask.span<T>()[0] = T{0};
    });
    return mask;
  }

  Parameter& bias_;  // [E]
};

}  // namespace

const RouterEntry domain_informed_router = {
    .name = "domain_informed",
    .doc = "rows of experts trained apart, with biases that hold them back (FlexOlmo 2025, arXiv "
           "2507.07024)",
    .make_config = make_router_config<TopKRouterConfig>,
    .make = make_router<DomainInformedRouter, TopKRouterConfig>,
};

}  // namespace sluice
