// Experts of two matrices, as in Switch Transformers (Fedus et al. 2021) and GPT-2-like models:
//
//   y = Wd_e f(Wu_e x),   f: relu (MoE-X 2025), relu_squared (Primer), gelu_tanh, tanh (Hecto 2025)
//
// With relu the layer is one wide sparse MLP of which whole blocks are zeroed (MoE-X, section 9.9 of
// the page); its router asks which neurons would be active.

#include "autograd/ops/elementwise.h"
#include "autograd/ops/grouped_matmul.h"
#include "layers/experts.h"

namespace sluice {
namespace {

struct MlpConfig final : Configurable {
  enum class Activation : uint8_t { relu, relu_squared, gelu_tanh, tanh };
  Activation activation = Activation::relu;
  void fields(FieldVisitor& v) override {
    v.enumeration({"activation", "f: relu, relu_squared, gelu_tanh or tanh"}, activation,
                  {{"relu", Activation::relu},
                   {"relu_squared", Activation::relu_squared},
                   {"gelu_tanh", Activation::gelu_tanh},
                   {"tanh", Activation::tanh}});
  }
};

class MlpExperts final : public RowExperts {
 public:
  MlpExperts(const Builder& b, const ExpertsSetup& s, const MlpConfig& config)
      : activation_(config.activation),
        w_up_(parameter(b, "w_up", {s.num_experts, s.intermediate_size, s.hidden_size},
                        ParameterKind::matrix, {}, Stack::routed_experts)),
        w_down_(parameter(b, "w_down", {s.num_experts, s.hidden_size, s.intermediate_size},
                          ParameterKind::matrix, Init::residual(), Stack::routed_experts)) {}

  [[nodiscard]] const Parameter* neuron_weights() const override { return &w_up_; }

 private:
  Tensor rows(const ForwardContext& context, const Tensor& x,
              const ExpertRows& rows) const override {
    const Tensor& offsets = rows.offsets;
    Tape& tape = context.tape;
    const Tensor up = grouped_matmul(tape, x, tape.use(w_up_), offsets);
    return grouped_matmul(tape, activate(tape, up), tape.use(w_down_), offsets);
  }

  [[nodiscard]] Tensor activate(Tape& tape, const Tensor& x) const {
    switch (activation_) {
      case MlpConfig::Activation::relu:
        return relu(tape, x);
      case MlpConfig::Activation::relu_squared:
        return relu_squared(tape, x);
      case MlpConfig::Activation::gelu_tanh:
        return gelu_tanh(tape, x);
      case MlpConfig::Activation::tanh:
        return tanh(tape, x);
    }
    return x;
  }

  MlpConfig::Activation activation_;
  Parameter& w_up_;
  Parameter& w_down_;
};

}  // namespace

const ExpertsEntry mlp_form = {
    .name = "mlp",
    .doc = "two matrices and an activation (Switch 2021; relu: MoE-X 2025)",
    .make_config = []() -> std::unique_ptr<Configurable> { return std::make_unique<MlpConfig>(); },
    .make = [](const Builder& b, const ExpertsSetup& setup,
               const Configurable& config) -> std::unique_ptr<Experts> {
      return std::make_unique<MlpExperts>(b, setup, dynamic_cast<const MlpConfig&>(config));
    },
};

}  // namespace sluice
