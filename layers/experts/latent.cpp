// Mixture of latent experts, MoLAE (2025, arXiv 2503.23100): every expert matrix is a product with a
// map that all experts of the layer share, which is applied once per token.
//
//   h_e = silu(Ag_e (Bg x)) * (Au_e (Bu x)),   y = Bd sum over chosen e of g_e Ad_e h_e
//
// Bg, Bu [m, D], Bd [D, m] shared; Ag_e, Au_e [F, m], Ad_e [m, F]. Without `factor_down` Ad_e is
// [D, F] and there is no Bd. 3 D m + 3 E F m parameters instead of 3 E D F. Reconstructed from the
// method page, which allows m <= D (the paper's case is m = F).

#include <array>
#include <optional>

#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/swiglu.h"
#include "layers/experts.h"
#include "layers/linear.h"

namespace sluice {
namespace {

struct LatentConfig final : Configurable {
  std::optional<int64_t> size;
  bool factor_down = true;
  void fields(FieldVisitor& v) override {
    v.optional_integer({"size", "width m of the shared maps (auto: intermediate_size)"}, size,
                       {.min = 1}, "auto");
    v.boolean({"factor_down", "the output matrices share a map too"}, factor_down);
  }
};

class LatentExperts final : public RowExperts {
 public:
  LatentExperts(const Builder& b, const ExpertsSetup& s, const LatentConfig& config)
      : size_(config.size.value_or(s.intermediate_size)) {
    const int64_t d = s.hidden_size;
    shared_gate_ = &child(std::make_unique<Linear>(b, LinearSpec{"shared_gate", d, size_}));
    shared_up_ = &child(std::make_unique<Linear>(b, LinearSpec{"shared_up", d, size_}));
    const Shape in{s.num_experts, s.intermediate_size, size_};
    w_gate_ = &parameter(b, "w_gate", in, ParameterKind::matrix, {}, Stack::routed_experts);
    w_up_ = &parameter(b, "w_up", in, ParameterKind::matrix, {}, Stack::routed_experts);
    const Shape out{s.num_experts, config.factor_down ? size_ : d, s.intermediate_size};
    w_down_ = &parameter(b, "w_down", out, ParameterKind::matrix,
                         config.factor_down ? Init{} : Init::residual(), Stack::routed_experts);
    if (config.factor_down) {
      shared_down_ = &child(std::make_unique<Linear>(
          b, LinearSpec{"shared_down", size_, d, false, Init::residual()}));
    }
  }

 private:
  Tensor before(const ForwardContext& context, const Tensor& x) const override {
    const std::array<Tensor, 2> both{shared_gate_->forward(context, x),
                                     shared_up_->forward(context, x)};
    return concat_columns(context.tape, both);  // [N, 2 m]
  }
  Tensor rows(const ForwardContext& context, const Tensor& x,
              const ExpertRows& rows) const override {
    const Tensor& offsets = rows.offsets;
    Tape& tape = context.tape;
    const Tensor gate =
        grouped_matmul(tape, slice_columns(tape, x, 0, size_), tape.use(*w_gate_), offsets);
    const Tensor up =
        grouped_matmul(tape, slice_columns(tape, x, size_, 2 * size_), tape.use(*w_up_), offsets);
    return grouped_matmul(tape, swiglu(tape, gate, up), tape.use(*w_down_), offsets);
  }
  Tensor after(const ForwardContext& context, const Tensor& y) const override {
    return shared_down_ == nullptr ? y : shared_down_->forward(context, y);
  }

  int64_t size_;
  Linear* shared_gate_;
  Linear* shared_up_;
  Linear* shared_down_ = nullptr;
  Parameter* w_gate_;
  Parameter* w_up_;
  Parameter* w_down_;
};

}  // namespace

const ExpertsEntry latent_form = {
    .name = "latent",
    .doc = "SwiGLU whose matrices share a map over all experts (mixture of latent experts 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<LatentConfig>();
    },
    .make = [](const Builder& b, const ExpertsSetup& setup,
               const Configurable& config) -> std::unique_ptr<Experts> {
      return std::make_unique<LatentExperts>(b, setup, dynamic_cast<const LatentConfig&>(config));
    },
};

}  // namespace sluice
