#include "layers/mixers/mamba1.h"

#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/selective_scan.h"
#include "autograd/ops/swiglu.h"
#include "layers/causal_convolution.h"
#include "layers/modalities.h"
#include "layers/model.h"

namespace sluice {

void Mamba1Config::fields(FieldVisitor& v) {
  v.number({"expand", "inner width, in units of hidden_size"}, expand,
           {.min = 0.0, .exclusive_min = true});
  v.integer({"state_size", "state size N: numbers that each channel keeps"}, state_size,
            {.min = 1});
  v.integer({"conv_kernel", "taps of the causal convolution, the token itself included"},
            conv_kernel, {.min = 1, .max = 64});
  v.boolean({"conv_bias", "the convolution has a bias"}, conv_bias);
  v.optional_integer({"time_step_rank", "rank of the step sizes (auto: hidden_size / 16)"},
                     time_step_rank, {.min = 1}, "auto");
  step_size.fields(v);
  v.boolean({"bcdt_norm", "RMSNorm of the step sizes' low rank, of B and of C, as in Jamba"},
            bcdt_norm);
}

std::string Mamba1Config::check() const { return step_size.check(); }

namespace {

/// expand * hidden_size.
double inner_width(const ModelConfig& model, const Mamba1Config& config) {
  return config.expand * static_cast<double>(model.hidden_size);
}

/// The last inputs of the convolution and the state, whatever the number of tokens.
class Mamba1State final : public MixerState {
 public:
  Mamba1State(Tensor history_, Tensor state_)
      : history(std::move(history_)), state(std::move(state_)) {}
  [[nodiscard]] int64_t length() const override { return tokens; }

  Tensor history;  // [K - 1, E]
  Tensor state;    // [N, E]
  int64_t tokens = 0;
};

class Mamba1 final : public Mixer {
 public:
  Mamba1(const Builder& b, const ModelConfig& model, const Mamba1Config& config,
         const UntiedProjections& untied)
      : modalities_(num_modalities(model)),
        any_untied_(untied.in || untied.x || untied.dt || untied.out),
        dt_untied_(untied.dt),
        state_size_(config.state_size),
        rank_(config.time_step_rank.value_or((model.hidden_size + 15) / 16)),
        norm_eps_(model.norm.eps) {
    const int64_t D = model.hidden_size;
    const int64_t E = std::llround(inner_width(model, config));
    const auto map = [&](const LinearSpec& spec, bool is_untied) {
      return &child(std::make_unique<ModalityLinear>(b, spec, is_untied ? modalities_ : 0));
    };
    u_ = map({"u", D, E, false, Init::uniform(D)}, untied.in);
    z_ = map({"z", D, E, false, Init::uniform(D)}, untied.in);
    conv_ = &child(std::make_unique<CausalConvolution>(b.child("conv"), E, config.conv_kernel,
                                                       config.conv_bias));
    x_ = map({"x", E, rank_ + 2 * state_size_, false, Init::uniform(E)}, untied.x);
    if (config.bcdt_norm) {
      const auto norm = [&](const char* name, int64_t size) {
        return &parameter(b, name, {size}, ParameterKind::norm, Init::ones());
      };
      dt_norm_ = norm("dt_norm", rank_);
      B_norm_ = norm("B_norm", state_size_);
      C_norm_ = norm("C_norm", state_size_);
    }
    dt_ = map({"dt", rank_, E, false, Init::uniform(rank_)}, untied.dt);
    dt_bias_ = untied.dt ? &parameter(b, "dt_bias", {modalities_, E}, ParameterKind::bias,
                                      Init::zeros(), Stack::modalities)
                         : &parameter(b, "dt_bias", {E}, ParameterKind::bias, Init::zeros());
    b.fill(*dt_bias_, [&](int64_t, double u) { return config.step_size.bias(u); });
    A_log_ = &parameter(b, "A_log", {E, state_size_}, ParameterKind::bias, Init::zeros());
    b.fill(*A_log_, [N = state_size_](int64_t i, double) {
      return std::log(static_cast<double>(i % N + 1));
    });
    D_ = &parameter(b, "D", {E}, ParameterKind::bias, Init::ones());
    out_ = map({"out", E, D, false, Init::uniform(E, /*adds_to_residual=*/true)}, untied.out);
  }

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    const auto rows = modality_rows(context);
    const Tensor u = conv_->forward(context, u_->forward(context, x, rows_of(rows)));
    return output(context, x,
                  selective_scan(context.tape, scanned(context, u, rows_of(rows)),
                                 context.layout.document_offsets),
                  rows_of(rows));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype,
                                         int64_t /*capacity*/) const override {
    return std::make_unique<Mamba1State>(
        conv_->make_history(pool, dtype),
        Tensor::zeros(pool, {state_size_, D_->value.dim(0)}, dtype));
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& /*block*/,
                MixerState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    auto& own = dynamic_cast<Mamba1State&>(state);
    const auto rows = modality_rows(context);
    const Tensor u = conv_->decode(context, u_->forward(context, x, rows_of(rows)), own.history);
    const Tensor y =
        selective_scan_step(context.tape, scanned(context, u, rows_of(rows)), own.state);
    own.tokens += x.dim(0);
    return output(context, x, y, rows_of(rows));
  }

 private:
  /// nullopt where nothing is untied.
  [[nodiscard]] std::optional<ModalityRows> modality_rows(const ForwardContext& context) const {
    if (!any_untied_) return std::nullopt;
    return ModalityRows(context, modalities_);
  }
  static const ModalityRows* rows_of(const std::optional<ModalityRows>& rows) {
    return rows ? &*rows : nullptr;
  }

  [[nodiscard]] SelectiveScanInputs scanned(const ForwardContext& context, const Tensor& u,
                                            const ModalityRows* rows) const {
    Tape& tape = context.tape;
    const Tensor all = x_->forward(context, u, rows);
    const auto part = [&](int64_t begin, int64_t size, Parameter* norm) {
      const Tensor columns = slice_columns(tape, all, begin, begin + size);
      return norm == nullptr ? columns : rms_norm(tape, columns, tape.use(*norm), norm_eps_);
    };
    Tensor dt = dt_->forward(context, part(0, rank_, dt_norm_), rows);
    Tensor dt_bias = tape.use(*dt_bias_);
    if (dt_untied_) {
      // The scan has one bias for all tokens: theirs is added before it.
      dt = add(tape, dt, embedding(tape, dt_bias, rows->ids));
      dt_bias = tape.zeros({dt.dim(1)}, dt.dtype());
    }
    return {.u = u,
            .dt = dt,
            .dt_bias = dt_bias,
            .A_log = tape.use(*A_log_),
            .B = part(rank_, state_size_, B_norm_),
            .C = part(rank_ + state_size_, state_size_, C_norm_),
            .D = tape.use(*D_)};
  }

  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& x, const Tensor& y,
                              const ModalityRows* rows) const {
    return out_->forward(context, swiglu(context.tape, z_->forward(context, x, rows), y), rows);
  }

  int64_t modalities_;
  bool any_untied_;
  bool dt_untied_;
  int64_t state_size_;
  int64_t rank_;
  double norm_eps_;
  ModalityLinear* u_;
  ModalityLinear* z_;
  CausalConvolution* conv_;
  ModalityLinear* x_;
  Parameter* dt_norm_ = nullptr;
  Parameter* B_norm_ = nullptr;
  Parameter* C_norm_ = nullptr;
  ModalityLinear* dt_;
  Parameter* dt_bias_;
  Parameter* A_log_;
  Parameter* D_;
  ModalityLinear* out_;
};

}  // namespace

std::unique_ptr<Mixer> make_mamba1(const Builder& b, const ModelConfig& model,
                                   const Mamba1Config& config, const UntiedProjections& untied) {
  return std::make_unique<Mamba1>(b, model, config, untied);
}

std::string check_mamba1(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const Mamba1Config&>(section);
  const double width = inner_width(model, config);
  if (width == std::floor(width) && width >= 1.0) return {};
  return fmt::format("expand: found {}, allowed what makes hidden_size ({}) times it whole",
                     config.expand, model.hidden_size);
}

const MixerEntry mamba1_mixer = {
    .name = "mamba1",
    .symbol = 'S',
    .section = "mamba1",
    .doc = "Mamba: a selective state space per channel (Gu and Dao 2023)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<Mamba1Config>();
    },
    .check = check_mamba1,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      return make_mamba1(b.child("mamba1"), model, dynamic_cast<const Mamba1Config&>(config));
    },
};

}  // namespace sluice
