// Experts as mixtures of templates (MixtureGrowth, Pham et al. 2024, arXiv 2311.04251, carried over from
// layers to experts):
//
//   W_e = sum_t a_et T_t   for each of the three matrices of SwiGLU
//
// with M templates T and a vector of coefficients a_e of its own for every expert and matrix. The vectors
// start orthonormal, so that no expert is a mixture of others; a new expert is a new orthonormal vector
// (`upcycle.scheme: extend`), which is why there are at least as many templates as experts. A template
// learns from every expert that uses it. The weights of all experts are made in every pass: M E F D
// multiplications per matrix, whatever the tokens.
//
// Letters: E experts, M templates, F expert width, D hidden size.

#include <cmath>
#include <optional>

#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/swiglu_experts.h"
#include "layers/experts.h"

namespace sluice {
namespace {

struct TemplatesConfig final : Configurable {
  std::optional<int64_t> num_templates;
  void fields(FieldVisitor& v) override {
    v.optional_integer({"num_templates",
                        "templates M of each matrix, at least as many as experts (auto: as many)"},
                       num_templates, {.min = 1}, "auto");
  }
};

class TemplateExperts final : public Experts {
 public:
  TemplateExperts(const Builder& b, const ExpertsSetup& s, const TemplatesConfig& config)
      : num_experts_(s.num_experts), templates_(config.num_templates.value_or(s.num_experts)) {
    SLUICE_CHECK(ConfigError, templates_ >= s.num_experts,
                 "experts.form: num_templates: found {}, allowed at least the {} experts, whose "
                 "coefficients are orthogonal",
                 templates_, s.num_experts);
    gate_ = mixture(b, "gate", {templates_, s.intermediate_size, s.hidden_size}, {});
    up_ = mixture(b, "up", {templates_, s.intermediate_size, s.hidden_size}, {});
    down_ = mixture(b, "down", {templates_, s.hidden_size, s.intermediate_size}, Init::residual());
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, const Tensor& weights,
                 const DispatchPlan& plan) const override {
    return swiglu_experts(context.tape, x, matrices(context.tape), weights, plan);
  }
  Tensor forward(const ForwardContext& context, const Tensor& x,
                 const Tensor& offsets) const override {
    return swiglu_experts(context.tape, x, matrices(context.tape), offsets);
  }

 private:
  struct Mixture {
    Parameter* coefficients = nullptr;  // [E, M]
    Parameter* templates = nullptr;     // [M, F, D], down: [M, D, F]
  };

  Mixture mixture(const Builder& b, const std::string& name, const Shape& shape, Init init) {
    Mixture made;
    made.templates = &parameter(b, "t_" + name, shape, ParameterKind::matrix, init);
    made.templates->stays_f32 = true;
    // Of the kind that weight decay leaves alone.
    made.coefficients = &parameter(b, "a_" + name, {num_experts_, templates_}, ParameterKind::bias,
                                   {}, Stack::routed_experts);
    if (made.coefficients->value.has_memory()) {
      dispatch_float(made.coefficients->value.dtype(), [&]<class T>() {
        orthonormalise(made.coefficients->value.span<T>());
      });
    }
    return made;
  }

  /// Gram-Schmidt over the rows, twice, as once leaves the rounding of nearly parallel rows.
  template <class T>
  void orthonormalise(std::span<T> rows) const {
    const auto m = static_cast<size_t>(templates_);
    std::vector<double> row(m);
    for (size_t e = 0; e < static_cast<size_t>(num_experts_); ++e) {
      std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(e * m), m, row.begin());
      for (int round = 0; round < 2; ++round) {
        for (size_t other = 0; other < e; ++other) {
          double product = 0.0;
          for (size_t t = 0; t < m; ++t) product += row[t] * static_cast<double>(rows[other * m + t]);
          for (size_t t = 0; t < m; ++t) row[t] -= product * static_cast<double>(rows[other * m + t]);
        }
        double squares = 0.0;
        for (const double value : row) squares += value * value;
        for (double& value : row) value /= std::sqrt(squares);
      }
      for (size_t t = 0; t < m; ++t) rows[e * m + t] = static_cast<T>(row[t]);
    }
  }

  [[nodiscard]] Tensor mixed(Tape& tape, const Mixture& mixture) const {
    const Shape shape = mixture.templates->value.shape();
    const Tensor flat =
        reshape(tape, tape.use(*mixture.templates), {templates_, shape[1] * shape[2]});
    return reshape(tape, matmul(tape, tape.use(*mixture.coefficients), flat),
                   {num_experts_, shape[1], shape[2]});
  }
  [[nodiscard]] ExpertWeightTensors matrices(Tape& tape) const {
    return {mixed(tape, gate_), mixed(tape, up_), mixed(tape, down_)};
  }

  int64_t num_experts_;
  int64_t templates_;
  Mixture gate_;
  Mixture up_;
  Mixture down_;
};

}  // namespace

const ExpertsEntry templates_form = {
    .name = "templates",
    .doc = "SwiGLU whose matrices are mixtures of templates, by coefficients of each expert "
           "(MixtureGrowth 2024, arXiv 2311.04251)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<TemplatesConfig>();
    },
    .make = [](const Builder& b, const ExpertsSetup& setup, const Configurable& config)
        -> std::unique_ptr<Experts> {
      return std::make_unique<TemplateExperts>(b, setup,
                                               dynamic_cast<const TemplatesConfig&>(config));
    },
};

}  // namespace sluice
