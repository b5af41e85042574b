// Ternary experts (MoTE, arXiv 2506.14435): SwiGLU experts whose matrices are rounded to {-1, 0, 1} times
// one number in every forward pass, with straight-through gradients to the numbers behind them
// (autograd/ops/ternary.h; the quantiser is that of BitNet b1.58, arXiv 2402.17764).
//
//   y = Wd'_e (silu(Wg'_e x) * (Wu'_e x)),   W' = g round_to_{-1,0,1}(W / g),   g = mean |W_e|
//
// Meant to stand beside a dense feed-forward in full precision, as a frozen shared expert. With
// `activations: int8` what the matrices read is rounded to 8 bits per token too. Stored as trained, or by
// `sluice pack-experts` as levels, five to a byte.

#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/swiglu.h"
#include "autograd/ops/ternary.h"
#include "layers/experts.h"

namespace sluice {
namespace {

struct TernaryConfig final : Configurable {
  enum class Activations : uint8_t { full, int8 };
  Activations activations = Activations::full;
  void fields(FieldVisitor& v) override {
    v.enumeration({"activations", "what the matrices read: full precision, or int8 per token"},
                  activations, {{"full", Activations::full}, {"int8", Activations::int8}});
  }
};

class TernaryExperts final : public RowExperts {
 public:
  TernaryExperts(const Builder& b, const ExpertsSetup& s, const TernaryConfig& config)
      : int8_(config.activations == TernaryConfig::Activations::int8),
        w_gate_(stack(b, "w_gate", {s.num_experts, s.intermediate_size, s.hidden_size}, {})),
        w_up_(stack(b, "w_up", {s.num_experts, s.intermediate_size, s.hidden_size}, {})),
        w_down_(stack(b, "w_down", {s.num_experts, s.hidden_size, s.intermediate_size},
                      Init::residual())) {}

 private:
  Parameter& stack(const Builder& b, const std::string& name, const Shape& shape, Init init) {
    Parameter& made =
        parameter(b, name, shape, ParameterKind::matrix, init, Stack::routed_experts);
    made.stays_f32 = true;  // is rounded, not only multiplied by
    return made;
  }
  Tensor rows(const ForwardContext& context, const Tensor& x,
              const ExpertRows& rows) const override {
    Tape& tape = context.tape;
    const Tensor in = levels(tape, x);
    const Tensor gate = grouped_matmul(tape, in, ternarise(tape, tape.use(w_gate_)), rows.offsets);
    const Tensor up = grouped_matmul(tape, in, ternarise(tape, tape.use(w_up_)), rows.offsets);
    const Tensor hidden = levels(tape, swiglu(tape, gate, up));
    return grouped_matmul(tape, hidden, ternarise(tape, tape.use(w_down_)), rows.offsets);
  }
  [[nodiscard]] Tensor levels(Tape& tape, const Tensor& x) const {
    return int8_ ? round_rows_to_int8(tape, x) : x;
  }

  bool int8_;
  Parameter& w_gate_;
  Parameter& w_up_;
  Parameter& w_down_;
};

}  // namespace

const ExpertsEntry ternary_form = {
    .name = "ternary",
    .doc = "SwiGLU of weights in {-1, 0, 1} times a number, straight-through gradients (MoTE 2025, "
           "arXiv 2506.14435)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<TernaryConfig>();
    },
    .make = [](const Builder& b, const ExpertsSetup& setup,
               const Configurable& config) -> std::unique_ptr<Experts> {
      return std::make_unique<TernaryExperts>(b, setup, dynamic_cast<const TernaryConfig&>(config));
    },
};

}  // namespace sluice
