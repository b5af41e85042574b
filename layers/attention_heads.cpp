#include "layers/attention_heads.h"

#include <array>
#include <cmath>

#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/rope.h"
#include "layers/model.h"
#include "layers/rotary.h"

namespace sluice {

void AttentionHeadsConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kLayouts = {"half_split", "interleaved"};
  static constexpr std::array<std::string_view, 3> kNorms = {"none", "per_head", "full"};
  static constexpr std::array<std::string_view, 3> kBiases = {"none", "qkv", "all"};
  v.integer({"num_heads", "query heads H"}, num_heads, {.min = 1});
  v.optional_integer({"num_kv_heads", "key/value heads, a divisor of num_heads (auto: num_heads)"},
                     num_kv_heads, {.min = 1}, "auto");
  v.optional_integer({"head_dim", "width of a head (auto: hidden_size / num_heads)"}, head_dim,
                     {.min = 1}, "auto");
  v.optional_number({"rope_theta", "base of the rotary frequencies; none: no rotation"}, rope_theta,
                    {.min = 1.0}, "none");
  v.word({"rope_layout", "pairs of the rotation: half_split (Hugging Face) or interleaved (Meta)"},
         rope_layout, kLayouts);
  v.optional_object(
      {"rope_scaling", "stretches the rotary frequencies to a longer context"}, rope_scaling,
      [] { return std::make_shared<RopeScalingConfig>(); }, "none");
  v.integer({"max_position_embeddings", "longest document, in tokens, that can be rotated"},
            max_position_embeddings, {.min = 1, .max = int64_t{1} << 24});
  v.word({"qk_norm", "RMSNorm of queries and keys: none, per_head (Qwen3), full (OLMoE)"}, qk_norm,
         kNorms);
  v.word({"bias", "biases: none, qkv (Qwen2), all (GPT-2)"}, bias, kBiases);
}

std::string AttentionHeadsConfig::check() const {
  if (num_heads % kv_heads() != 0) {
    return fmt::format("num_kv_heads: found {}, allowed a divisor of num_heads ({})", kv_heads(),
                       num_heads);
  }
  if (head_dim && *head_dim % 2 != 0 && rope_theta) {
    return fmt::format("head_dim: found {}, allowed an even number with rotary positions",
                       *head_dim);
  }
  return {};
}

std::string check_head_width(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const AttentionHeadsConfig&>(section);
  if (config.head_dim) return {};
  if (model.hidden_size % config.num_heads != 0) {
    return fmt::format(
        "num_heads: found {}, allowed a divisor of hidden_size ({}), or give head_dim",
        config.num_heads, model.hidden_size);
  }
  if (config.rope_theta && model.hidden_size / config.num_heads % 2 != 0) {
    return fmt::format(
        "num_heads: found {}, which gives heads of odd width {}; rotary positions need "
        "an even one",
        config.num_heads, model.hidden_size / config.num_heads);
  }
  return {};
}

std::optional<int64_t> longest_rotated_document(const Configurable& section) {
  const auto& config = dynamic_cast<const AttentionHeadsConfig&>(section);
  if (!config.rope_theta) return std::nullopt;
  return config.max_position_embeddings;
}

AttentionHeads::AttentionHeads(WithoutParameters, const Builder& b, const ModelConfig& model,
                               const AttentionHeadsConfig& config)
    : heads_(config.num_heads),
      kv_heads_(config.kv_heads()),
      head_dim_(config.head_dim.value_or(model.hidden_size / config.num_heads)),
      norm_eps_(model.norm.eps),
      full_norm_(config.qk_norm == "full"),
      layout_(config.rope_layout == "half_split" ? RopeLayout::half_split
                                                 : RopeLayout::interleaved) {
  if (config.rope_theta) {
    table_ = rope_table(b.pool(), b.dtype(),
                        rope_config(head_dim_, *config.rope_theta, config.rope_scaling.get()),
                        config.max_position_embeddings);
  }
}

AttentionHeads::AttentionHeads(const Builder& b, const ModelConfig& model,
                               const AttentionHeadsConfig& config)
    : AttentionHeads(WithoutParameters{}, b, model, config) {
  const bool bias = config.bias != "none";
  const int64_t d = model.hidden_size;
  q_ = &child(std::make_unique<Linear>(b, LinearSpec{"q", d, heads_ * head_dim_, bias}));
  k_ = &child(std::make_unique<Linear>(b, LinearSpec{"k", d, kv_heads_ * head_dim_, bias}));
  v_ = &child(std::make_unique<Linear>(b, LinearSpec{"v", d, kv_heads_ * head_dim_, bias}));
  o_ = &child(std::make_unique<Linear>(
      b, LinearSpec{"o", heads_ * head_dim_, d, config.bias == "all", Init::residual()}));
  if (config.qk_norm != "none") {
    const Shape q_shape{full_norm_ ? heads_ * head_dim_ : head_dim_};
    const Shape k_shape{full_norm_ ? kv_heads_ * head_dim_ : head_dim_};
    q_norm_ = &parameter(b, "q_norm", q_shape, ParameterKind::norm, Init::ones());
    k_norm_ = &parameter(b, "k_norm", k_shape, ParameterKind::norm, Init::ones());
  }
}

double AttentionHeads::scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim_)); }

AttentionRope AttentionHeads::rope(const ForwardContext& context) const {
  if (!table_.cos.defined()) return {};
  return {context.layout.positions, table_, layout_};
}

AttentionHeads::Projections AttentionHeads::project(const ForwardContext& context, const Tensor& x,
                                                    bool turns) const {
  const auto [q, k, v] = Linear::forward_joint<3>(context, x, {q_, k_, v_});
  return {prepare(context, q, heads_, q_norm_, turns),
          prepare(context, k, kv_heads_, k_norm_, turns), split_heads(context, v, kv_heads_)};
}

Tensor AttentionHeads::queries(const ForwardContext& context, const Tensor& x, bool turns) const {
  return prepare(context, q_->forward(context, x), heads_, q_norm_, turns);
}

Tensor AttentionHeads::split_heads(const ForwardContext& context, const Tensor& x,
                                   int64_t heads) const {
  return reshape(context.tape, x, {x.dim(0), heads, head_dim_});
}

/// QK-norm, then, when it `turns` here, rotation: [N, heads * P] -> [N, heads, P].
Tensor AttentionHeads::prepare(const ForwardContext& context, Tensor x, int64_t heads,
                               Parameter* norm, bool turns) const {
  Tape& tape = context.tape;
  if (norm != nullptr && full_norm_) x = rms_norm(tape, x, tape.use(*norm), norm_eps_);
  x = split_heads(context, x, heads);
  if (norm != nullptr && !full_norm_) x = rms_norm(tape, x, tape.use(*norm), norm_eps_);
  return turned(context, x, turns);
}

Tensor AttentionHeads::turned(const ForwardContext& context, const Tensor& x, bool turns) const {
  if (!turns || !table_.cos.defined()) return x;
  return sluice::rope(context.tape, x, context.layout.positions, table_, layout_);
}

Tensor AttentionHeads::output(const ForwardContext& context, const Tensor& mixed) const {
  return o_->forward(context, reshape(context.tape, mixed, {mixed.dim(0), heads_ * head_dim_}));
}

}  // namespace sluice
