#include "layers/mixers/mamba1.h"

#include <cmath>

#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/selective_scan.h"
#include "autograd/ops/swiglu.h"
#include "layers/causal_convolution.h"
#include "layers/linear.h"
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

std::string check_mamba1(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const Mamba1Config&>(section);
  const double width = inner_width(model, config);
  if (width == std::floor(width) && width >= 1.0) return {};
  return fmt::format("expand: found {}, allowed what makes hidden_size ({}) times it whole",
                     config.expand, model.hidden_size);
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
  Mamba1(const Builder& b, const ModelConfig& model, const Mamba1Config& config)
      : state_size_(config.state_size),
        rank_(config.time_step_rank.value_or((model.hidden_size + 15) / 16)),
        norm_eps_(model.norm.eps) {
    const int64_t D = model.hidden_size;
    const int64_t E = std::llround(inner_width(model, config));
    const auto map = [&](const char* name, int64_t in, int64_t out, bool adds_to_residual) {
      return &child(std::make_unique<Linear>(
          b, LinearSpec{name, in, out, false, Init::uniform(in, adds_to_residual)}));
    };
    u_ = map("u", D, E, false);
    z_ = map("z", D, E, false);
    conv_ = &child(std::make_unique<CausalConvolution>(b.child("conv"), E, config.conv_kernel,
                                                       config.conv_bias));
    x_ = map("x", E, rank_ + 2 * state_size_, false);
    if (config.bcdt_norm) {
      const auto norm = [&](const char* name, int64_t size) {
        return &parameter(b, name, {size}, ParameterKind::norm, Init::ones());
      };
      dt_norm_ = norm("dt_norm", rank_);
      B_norm_ = norm("B_norm", state_size_);
      C_norm_ = norm("C_norm", state_size_);
    }
    dt_ = map("dt", rank_, E, false);
    dt_bias_ = &parameter(b, "dt_bias", {E}, ParameterKind::bias, Init::zeros());
    b.fill(*dt_bias_, [&](int64_t, double u) { return config.step_size.bias(u); });
    A_log_ = &parameter(b, "A_log", {E, state_size_}, ParameterKind::bias, Init::zeros());
    b.fill(*A_log_, [N = state_size_](int64_t i, double) {
      return std::log(static_cast<double>(i % N + 1));
    });
    D_ = &parameter(b, "D", {E}, ParameterKind::bias, Init::ones());
    out_ = map("out", E, D, true);
  }

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    const Tensor u = conv_->forward(context, u_->forward(context, x));
    return output(
        context, x,
        selective_scan(context.tape, scanned(context, u), context.layout.document_offsets));
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
    const Tensor u = conv_->decode(context, u_->forward(context, x), own.history);
    const Tensor y = selective_scan_step(context.tape, scanned(context, u), own.state);
    own.tokens += x.dim(0);
    return output(context, x, y);
  }

 private:
  [[nodiscard]] SelectiveScanInputs scanned(const ForwardContext& context, const Tensor& u) const {
    Tape& tape = context.tape;
    const Tensor all = x_->forward(context, u);
    const auto part = [&](int64_t begin, int64_t size, Parameter* norm) {
      const Tensor columns = slice_columns(tape, all, begin, begin + size);
      return norm == nullptr ? columns : rms_norm(tape, columns, tape.use(*norm), norm_eps_);
    };
    const Tensor low_rank = part(0, rank_, dt_norm_);
    return {.u = u,
            .dt = dt_->forward(context, low_rank),
            .dt_bias = tape.use(*dt_bias_),
            .A_log = tape.use(*A_log_),
            .B = part(rank_, state_size_, B_norm_),
            .C = part(rank_ + state_size_, state_size_, C_norm_),
            .D = tape.use(*D_)};
  }

  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& x,
                              const Tensor& y) const {
    return out_->forward(context, swiglu(context.tape, z_->forward(context, x), y));
  }

  int64_t state_size_;
  int64_t rank_;
  double norm_eps_;
  Linear* u_;
  Linear* z_;
  CausalConvolution* conv_;
  Linear* x_;
  Parameter* dt_norm_ = nullptr;
  Parameter* B_norm_ = nullptr;
  Parameter* C_norm_ = nullptr;
  Linear* dt_;
  Parameter* dt_bias_;
  Parameter* A_log_;
  Parameter* D_;
  Linear* out_;
};

}  // namespace

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
      return std::make_unique<Mamba1>(b.child("mamba1"), model,
                                      dynamic_cast<const Mamba1Config&>(config));
    },
};

}  // namespace sluice
