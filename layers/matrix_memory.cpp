#include "layers/matrix_memory.h"

#include <array>
#include <cmath>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/gated_delta_rule.h"
#include "autograd/ops/gated_slot_attention.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/swiglu.h"
#include "layers/causal_convolution.h"
#include "layers/linear.h"

namespace sluice {
namespace {

constexpr double kUnitLengthEps = 1e-6;
constexpr double kNormaliserEps = 1e-6;
/// A_log starts as the logarithm of a uniform number below this, and above a number that keeps the
/// logarithm finite.
constexpr double kLargestDecay = 16.0;
constexpr double kSmallestDecay = 1e-4;
/// tau of gated slot attention: gates start at 2^(-1 / tau), which forgets slowly.
constexpr double kSlotGateTemperature = 8.0;

Tensor filled(Pool& pool, const Shape& shape, DType dtype, double value) {
  Tensor result = Tensor::empty(pool, shape, dtype);
  if (result.has_memory()) {
    dispatch_float(dtype, [&]<class T>() {
      for (T& element : result.span<T>()) element = static_cast<T>(value);
    });
  }
  return result;
}

}  // namespace

void MemoryHeadsConfig::fields(FieldVisitor& v) {
  v.integer({"num_heads", "heads H, with a memory each"}, num_heads, {.min = 1});
  v.optional_integer({"head_dim", "width K of a key (auto: hidden_size / num_heads)"}, head_dim,
                     {.min = 1}, "auto");
  v.number({"expand_v", "width V of a value, in units of head_dim"}, expand_v,
           {.min = 0.0, .exclusive_min = true});
  v.optional_integer(
      {"conv_kernel",
       "taps of the causal convolution of queries, keys and values; none: no convolution"},
      conv_kernel, {.min = 1, .max = 64}, "none");
  v.boolean({"output_gate", "multiply what was read by silu of a projection of the token"},
            output_gate);
}

std::string MemoryHeadsConfig::check(int64_t hidden_size) const {
  if (!head_dim && hidden_size % num_heads != 0) {
    return fmt::format(
        "num_heads: found {}, allowed a divisor of hidden_size ({}), or give head_dim", num_heads,
        hidden_size);
  }
  const double exact = expand_v * static_cast<double>(key_dim(hidden_size));
  if (exact != static_cast<double>(value_dim(hidden_size)) || exact < 1.0) {
    return fmt::format("expand_v: found {}, allowed what makes head_dim ({}) times it whole",
                       expand_v, key_dim(hidden_size));
  }
  return {};
}

int64_t MemoryHeadsConfig::value_dim(int64_t hidden_size) const {
  return std::llround(expand_v * static_cast<double>(key_dim(hidden_size)));
}

MatrixMemory::MatrixMemory(const Builder& b, int64_t hidden_size, double eps,
                           const MatrixMemorySettings& settings)
    : settings_(settings),
      heads_(settings.heads.num_heads),
      key_dim_(settings.heads.key_dim(hidden_size)),
      value_dim_(settings.heads.value_dim(hidden_size)),
      eps_(eps) {
  q_ = &child(std::make_unique<Linear>(b, LinearSpec{"q", hidden_size, keys_width()}));
  const auto convolve = [&](const char* name, int64_t channels) -> CausalConvolution* {
    if (!settings.heads.conv_kernel) return nullptr;
    return &child(std::make_unique<CausalConvolution>(b.child(name), channels,
                                                      *settings.heads.conv_kernel, false));
  };
  q_conv_ = convolve("q_conv", keys_width());
  k_conv_ = convolve("k_conv", keys_width());
  v_conv_ = convolve("v_conv", values_width());
  if (settings.feature_map == FeatureMap::unit_length) {
    unit_ = filled(b.pool(), {key_dim_}, b.dtype(), 1.0 / std::sqrt(static_cast<double>(key_dim_)));
  }
  if (settings.feature_map == FeatureMap::hadamard) {
    const auto map = [&](const char* name) {
      return &child(std::make_unique<Linear>(
          b, LinearSpec{name, key_dim_, key_dim_, false, Init::uniform(key_dim_)}));
    };
    q_maps_[0] = map("q_map1");
    q_maps_[1] = map("q_map2");
    k_maps_[0] = map("k_map1");
    k_maps_[1] = map("k_map2");
  }
  if (settings.has_decay) {
    A_log_ = &parameter(b, "A_log", {heads_}, ParameterKind::bias, Init::zeros());
    b.fill(*A_log_,
           [](int64_t, double u) { return std::log(std::max(kLargestDecay * u, kSmallestDecay)); });
    dt_bias_ = &parameter(b, "dt_bias", {heads_}, ParameterKind::bias, Init::zeros());
    b.fill(*dt_bias_, [&](int64_t, double u) { return settings.step_size.bias(u); });
  }
  if (settings.has_output_norm) {
    norm_ = &parameter(b, "norm", {value_dim_}, ParameterKind::norm, Init::ones());
  }
  if (settings.heads.output_gate) {
    gate_ = &child(std::make_unique<Linear>(b, LinearSpec{"gate", hidden_size, values_width()}));
  }
  o_ = &child(std::make_unique<Linear>(
      b, LinearSpec{"o", values_width(), hidden_size, false, Init::residual()}));
}

Tensor MatrixMemory::queries(const ForwardContext& context, const Tensor& x) const {
  return q_->forward(context, x);
}

Tensor MatrixMemory::recall(const ForwardContext& context, const Tensor& q,
                            const MemoryWrites& writes, std::span<const int64_t> offsets) const {
  return recall({context, offsets}, q, writes);
}

Tensor MatrixMemory::recall_next(const ForwardContext& context, const Tensor& q,
                                 const MemoryWrites& writes, MatrixMemoryState& state) const {
  return recall({context, {}, &state}, q, writes);
}

Tensor MatrixMemory::convolve(const Passage& passage, const CausalConvolution* convolution,
                              const Tensor& x, Tensor MatrixMemoryState::*history) const {
  const ForwardContext& context = passage.context;
  if (convolution == nullptr) return settings_.has_silu ? silu(context.tape, x) : x;
  if (passage.state != nullptr) return convolution->decode(context, x, passage.state->*history);
  return convolution->forward(context, x, passage.offsets);
}

Tensor MatrixMemory::features(Tape& tape, const Tensor& x, const Linear* const (&maps)[2],
                              const ForwardContext& context) const {
  const Tensor heads = reshape(tape, x, {x.dim(0), heads_, key_dim_});
  switch (settings_.feature_map) {
    case FeatureMap::identity:
      return heads;
    case FeatureMap::unit_length:
      // |x|^2 + eps = K (mean x^2 + eps / K)
      return rms_norm(tape, heads, unit_, kUnitLengthEps / static_cast<double>(key_dim_));
    case FeatureMap::elu_plus_one:
      return elu_plus_one(tape, heads);
    case FeatureMap::hadamard:
      return mul(tape, maps[0]->forward(context, heads), maps[1]->forward(context, heads));
  }
  throw InternalError("a feature map without a formula");
}

Tensor MatrixMemory::log_decay(Tape& tape, const Tensor& a) const {
  const Tensor step = softplus(tape, add_bias(tape, a, tape.use(*dt_bias_)));
  return mul_columns(tape, step, scale(tape, exp(tape, tape.use(*A_log_)), -1.0));
}

Tensor MatrixMemory::with_ones(Tape& tape, const Tensor& v) const {
  const int64_t rows = v.dim(0) * heads_;
  const std::array<Tensor, 2> parts = {reshape(tape, v, {rows, value_dim_}),
                                       filled(tape.pool(), {rows, 1}, v.dtype(), 1.0)};
  return reshape(tape, concat_columns(tape, parts), {v.dim(0), heads_, value_dim_ + 1});
}

Tensor MatrixMemory::normalised(Tape& tape, const Tensor& o) const {
  const int64_t rows = o.dim(0) * heads_;
  const Tensor both = reshape(tape, o, {rows, value_dim_ + 1});
  const Tensor sum = slice_columns(tape, both, value_dim_, value_dim_ + 1);
  const Tensor log_sum = log(tape, add_constant(tape, reshape(tape, sum, {rows}), kNormaliserEps));
  return reshape(tape,
                 mul_rows(tape, slice_columns(tape, both, 0, value_dim_),
                          exp(tape, sluice::scale(tape, log_sum, -1.0))),
                 {o.dim(0), heads_, value_dim_});
}

Tensor MatrixMemory::pass_slots(const Passage& passage, const Tensor& q, const Tensor& k,
                                const Tensor& v, const Tensor& a) const {
  Tape& tape = passage.context.tape;
  // log sigmoid(a) = -softplus(-a)
  const Tensor log_gate = sluice::scale(tape, softplus(tape, sluice::scale(tape, a, -1.0)),
                                        -1.0 / kSlotGateTemperature);
  const GatedSlotTokens tokens{q, k, v,
                               reshape(tape, log_gate, {a.dim(0), heads_, settings_.num_slots})};
  const double factor = 1.0 / std::sqrt(static_cast<double>(key_dim_));
  if (passage.state != nullptr) {
    return advance_gated_slot_attention(tape, tokens, factor, passage.state->memory);
  }
  return gated_slot_attention(tape, tokens, passage.offsets, factor);
}

Tensor MatrixMemory::recall(const Passage& passage, const Tensor& q,
                            const MemoryWrites& writes) const {
  using State = MatrixMemoryState;
  const ForwardContext& context = passage.context;
  Tape& tape = context.tape;
  const Tensor v = convolve(passage, v_conv_, writes.v, &State::v_history);
  MemoryTokens tokens{
      features(tape, convolve(passage, q_conv_, q, &State::q_history), q_maps_, context),
      features(tape, convolve(passage, k_conv_, writes.k, &State::k_history), k_maps_, context),
      settings_.normalises ? with_ones(tape, v) : reshape(tape, v, {v.dim(0), heads_, value_dim_}),
      {},
      {}};
  if (settings_.update == MemoryUpdate::slots) {
    const Tensor o = pass_slots(passage, tokens.q, tokens.k, tokens.v, writes.a);
    return reshape(tape, o, {o.dim(0), values_width()});
  }
  if (settings_.has_decay) tokens.log_decay = log_decay(tape, writes.a);
  if (settings_.has_beta) tokens.beta = sigmoid(tape, writes.b);
  const double factor = 1.0 / std::sqrt(static_cast<double>(key_dim_));
  const bool is_delta = settings_.update == MemoryUpdate::delta;
  Tensor o;
  if (passage.state != nullptr) {
    o = is_delta ? advance_gated_delta_rule(tape, tokens, factor, passage.state->memory)
                 : advance_linear_attention(tape, tokens, factor, passage.state->memory);
  } else {
    const MemoryScanOptions options{passage.offsets, factor};
    o = is_delta ? gated_delta_rule(tape, tokens, options)
                 : linear_attention_scan(tape, tokens, options);
  }
  if (settings_.normalises) o = normalised(tape, o);
  return reshape(tape, o, {o.dim(0), values_width()});
}

Tensor MatrixMemory::output(const ForwardContext& context, const Tensor& x, const Tensor& o) const {
  Tape& tape = context.tape;
  Tensor y = o;
  if (norm_ != nullptr) {
    const Tensor heads = reshape(tape, o, {o.dim(0), heads_, value_dim_});
    y = reshape(tape, rms_norm(tape, heads, tape.use(*norm_), eps_), o.shape());
  }
  if (gate_ != nullptr) y = swiglu(tape, gate_->forward(context, x), y);
  return o_->forward(context, y);
}

MatrixMemoryState MatrixMemory::make_state(Pool& pool, DType dtype) const {
  MatrixMemoryState state;
  if (q_conv_ != nullptr) {
    state.q_history = q_conv_->make_history(pool, dtype);
    state.k_history = k_conv_->make_history(pool, dtype);
    state.v_history = v_conv_->make_history(pool, dtype);
  }
  state.memory =
      settings_.update == MemoryUpdate::slots
          ? Tensor::zeros(pool, {heads_, settings_.num_slots, key_dim_ + value_dim_}, dtype)
          : Tensor::zeros(pool, {heads_, key_dim_, memory_columns()}, dtype);
  return state;
}

WriteProjections::WriteProjections(const Builder& b, int64_t hidden_size,
                                   const MatrixMemory& memory) {
  const auto project = [&](const char* name, int64_t out) {
    return &child(std::make_unique<Linear>(b, LinearSpec{name, hidden_size, out}));
  };
  k_ = project("k", memory.keys_width());
  v_ = project("v", memory.values_width());
  if (memory.gates() > 0) a_ = project("a", memory.gates());
  if (memory.has_beta()) b_ = project("b", memory.heads());
}

MemoryWrites WriteProjections::writes(const ForwardContext& context, const Tensor& x) const {
  const auto of = [&](const Linear* projection) {
    return projection != nullptr ? projection->forward(context, x) : Tensor();
  };
  return {of(k_), of(v_), of(a_), of(b_)};
}

}  // namespace sluice
