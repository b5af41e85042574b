#include "layers/mixers/mamba2.h"

#include <array>
#include <cmath>
#include <limits>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/gated_rms_norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/ssd_scan.h"
#include "autograd/ops/swiglu.h"
#include "layers/causal_convolution.h"
#include "layers/linear.h"
#include "layers/model.h"

namespace sluice {

void Mamba2Config::fields(FieldVisitor& v) {
  v.number({"expand", "inner width, in units of hidden_size"}, expand,
           {.min = 0.0, .exclusive_min = true});
  v.integer({"head_dim", "width P of a head; divides the inner width"}, head_dim, {.min = 1});
  v.integer({"num_groups", "groups G of heads that share B and C; divides the number of heads"},
            num_groups, {.min = 1});
  v.integer({"state_size", "state size N: each head keeps P times N numbers"}, state_size,
            {.min = 1});
  v.integer({"conv_kernel", "taps of the causal convolution, the token itself included"},
            conv_kernel, {.min = 1, .max = 64});
  v.boolean({"conv_bias", "the convolution has a bias"}, conv_bias);
  v.integer(
      {"chunk_size", "tokens that are computed as one block of matrix products; changes speed"},
      chunk_size, {.min = 1, .max = 1024});
  step_size.fields(v);
  v.numbers({"time_step_limit", "[smallest, largest] step size ever taken; [] for no limit"},
            time_step_limit, {.min = 0.0});
  v.boolean({"norm_before_gate", "normalise before the gate is applied, not after"},
            norm_before_gate);
  v.optional_integer(
      {"norm_group_size",
       "channels that the gated norm takes together (auto: inner width / num_groups)"},
      norm_group_size, {.min = 1}, "auto");
  v.optional_integer({"ssm_size",
                      "channels of the inner width that the state space reads, the others are a "
                      "gated feed-forward (auto: all)"},
                     ssm_size, {.min = 1}, "auto");
  v.boolean({"D_per_channel", "the skip D has a number for each channel, not for each head"},
            D_per_channel);
}

std::string Mamba2Config::check() const {
  if (!time_step_limit.empty() &&
      (time_step_limit.size() != 2 || time_step_limit[0] >= time_step_limit[1])) {
    return fmt::format(
        "time_step_limit: found [{}], allowed two increasing numbers, or [] for no limit",
        fmt::join(time_step_limit, ", "));
  }
  return step_size.check();
}

namespace {

/// The widths that a section gives in a model.
struct Widths {
  Widths(const ModelConfig& model, const Mamba2Config& config)
      : exact(config.expand * static_cast<double>(model.hidden_size)),
        inner(std::llround(exact)),
        ssm(config.ssm_size.value_or(inner)),
        heads(ssm / config.head_dim),
        group(config.norm_group_size.value_or(ssm / config.num_groups)) {}
  double exact;
  int64_t inner;  // E
  int64_t ssm;    // H P
  int64_t heads;  // H
  int64_t group;  // channels of a group of the norm
};

std::string check_mamba2(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const Mamba2Config&>(section);
  const Widths widths(model, config);
  if (widths.exact != static_cast<double>(widths.inner) || widths.inner < 1) {
    return fmt::format("expand: found {}, allowed what makes hidden_size ({}) times it whole",
                       config.expand, model.hidden_size);
  }
  if (widths.ssm > widths.inner) {
    return fmt::format("ssm_size: found {}, allowed 1 to {} (expand times hidden_size)", widths.ssm,
                       widths.inner);
  }
  if (widths.ssm % config.head_dim != 0) {
    return fmt::format("head_dim: found {}, allowed a divisor of the inner width ({})",
                       config.head_dim, widths.ssm);
  }
  if (widths.heads % config.num_groups != 0) {
    return fmt::format("num_groups: found {}, allowed a divisor of the number of heads ({})",
                       config.num_groups, widths.heads);
  }
  if (widths.ssm % widths.group != 0) {
    return fmt::format("norm_group_size: found {}, allowed a divisor of the inner width ({})",
                       widths.group, widths.ssm);
  }
  return {};
}

/// The last inputs of the convolution and the state, whatever the number of tokens.
class Mamba2State final : public MixerState {
 public:
  Mamba2State(Tensor history_, Tensor state_)
      : history(std::move(history_)), state(std::move(state_)) {}
  [[nodiscard]] int64_t length() const override { return tokens; }

  Tensor history;  // [K - 1, H P + 2 G N]
  Tensor state;    // [H, P, N]
  int64_t tokens = 0;
};

class Mamba2 final : public Mixer {
 public:
  Mamba2(const Builder& b, const ModelConfig& model, const Mamba2Config& config)
      : Mamba2(b, model.hidden_size, model.norm.eps, Widths(model, config), config) {}

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    const Tensor xbc = conv_->forward(context, xbc_->forward(context, x));
    const Tensor y =
        ssd_scan(context.tape, scanned(context, x, xbc), context.layout.document_offsets, options_);
    return output(context, x, with_skip(context.tape, y, xbc));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype,
                                         int64_t /*capacity*/) const override {
    return std::make_unique<Mamba2State>(
        conv_->make_history(pool, dtype),
        Tensor::zeros(pool, {A_log_->value.dim(0), head_dim_, options_.state_size}, dtype));
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& /*block*/,
                MixerState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    auto& own = dynamic_cast<Mamba2State&>(state);
    const Tensor xbc = conv_->decode(context, xbc_->forward(context, x), own.history);
    const Tensor y = ssd_scan_step(context.tape, scanned(context, x, xbc), options_, own.state);
    own.tokens += x.dim(0);
    return output(context, x, with_skip(context.tape, y, xbc));
  }

 private:
  Mamba2(const Builder& b, int64_t hidden_size, double eps, const Widths& widths,
         const Mamba2Config& config)
      : head_dim_(config.head_dim),
        D_per_channel_(config.D_per_channel),
        options_{.num_groups = config.num_groups,
                 .state_size = config.state_size,
                 .chunk_size = config.chunk_size},
        norm_options_{
            .eps = eps, .group_size = widths.group, .norm_before_gate = config.norm_before_gate} {
    if (!config.time_step_limit.empty()) {
      options_.dt_min = config.time_step_limit[0];
      options_.dt_max = config.time_step_limit[1];
    }
    const int64_t channels = widths.ssm + 2 * config.num_groups * config.state_size;
    const auto project = [&](const char* name, int64_t out) {
      return &child(std::make_unique<Linear>(
          b, LinearSpec{name, hidden_size, out, false, Init::uniform(hidden_size)}));
    };
    if (widths.ssm < widths.inner) {
      plain_gate_ = project("z0", widths.inner - widths.ssm);
      plain_ = project("x0", widths.inner - widths.ssm);
    }
    z_ = project("z", widths.ssm);
    xbc_ = project("xbc", channels);
    dt_ = project("dt", widths.heads);
    conv_ = &child(std::make_unique<CausalConvolution>(b.child("conv"), channels,
                                                       config.conv_kernel, config.conv_bias));
    dt_bias_ = &parameter(b, "dt_bias", {widths.heads}, ParameterKind::bias, Init::zeros());
    b.fill(*dt_bias_, [&](int64_t, double u) { return config.step_size.bias(u); });
    A_log_ = &parameter(b, "A_log", {widths.heads}, ParameterKind::bias, Init::zeros());
    b.fill(*A_log_, [](int64_t, double u) { return std::log(1.0 + 15.0 * u); });
    D_ = &parameter(b, "D", {D_per_channel_ ? widths.ssm : widths.heads}, ParameterKind::bias,
                    Init::ones());
    norm_ = &parameter(b, "norm", {widths.ssm}, ParameterKind::norm, Init::ones());
    out_ = &child(std::make_unique<Linear>(
        b, LinearSpec{"out", widths.inner, hidden_size, false, Init::uniform(widths.inner, true)}));
  }

  [[nodiscard]] SsdInputs scanned(const ForwardContext& context, const Tensor& x,
                                  const Tensor& xbc) const {
    Tape& tape = context.tape;
    const Tensor D = D_per_channel_ ? tape.zeros(A_log_->value.shape(), x.dtype()) : tape.use(*D_);
    return {xbc, dt_->forward(context, x), tape.use(*dt_bias_), tape.use(*A_log_), D};
  }

  /// y + D x where D is per channel, which the scan leaves out: x is the first part of xbc.
  [[nodiscard]] Tensor with_skip(Tape& tape, const Tensor& y, const Tensor& xbc) const {
    if (!D_per_channel_) return y;
    const Tensor x = slice_columns(tape, xbc, 0, y.dim(1));
    return add(tape, y, mul_columns(tape, x, tape.use(*D_)));
  }

  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& x,
                              const Tensor& y) const {
    Tape& tape = context.tape;
    Tensor gated =
        gated_rms_norm(tape, y, z_->forward(context, x), tape.use(*norm_), norm_options_);
    if (plain_ != nullptr) {
      const Tensor plain =
          swiglu(tape, plain_gate_->forward(context, x), plain_->forward(context, x));
      gated = concat_columns(tape, std::array{plain, gated});
    }
    return out_->forward(context, gated);
  }

  int64_t head_dim_;
  bool D_per_channel_;
  SsdOptions options_;
  GatedRmsNormOptions norm_options_;
  Linear* plain_gate_ = nullptr;
  Linear* plain_ = nullptr;
  Linear* z_;
  Linear* xbc_;
  Linear* dt_;
  CausalConvolution* conv_;
  Parameter* dt_bias_;
  Parameter* A_log_;
  Parameter* D_;
  Parameter* norm_;
  Linear* out_;
};

}  // namespace

const MixerEntry mamba2_mixer = {
    .name = "mamba2",
    .symbol = 'M',
    .section = "mamba2",
    .doc = "Mamba-2: a state space in chunks of matrix products (Dao and Gu 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<Mamba2Config>();
    },
    .check = check_mamba2,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      return std::make_unique<Mamba2>(b.child("mamba2"), model,
                                      dynamic_cast<const Mamba2Config&>(config));
    },
};

}  // namespace sluice
