#include "layers/mixers/latent_attention.h"

#include <cmath>
#include <vector>

#include "autograd/ops/causal_attention.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "layers/linear.h"
#include "layers/model.h"
#include "layers/rotary.h"
#include "layers/row_cache.h"

namespace sluice {

void LatentAttentionConfig::fields(FieldVisitor& v) {
  v.integer({"num_heads", "heads H, each with keys and values of its own"}, num_heads, {.min = 1});
  v.optional_integer({"q_lora_rank", "width of the query latent; none: queries straight from x"},
                     q_lora_rank, {.min = 1}, "none");
  v.integer({"kv_lora_rank", "width of the latent that keys and values come from"}, kv_lora_rank,
            {.min = 1});
  v.integer({"qk_nope_head_dim", "width of the part of keys that no position turns"},
            qk_nope_head_dim, {.min = 1});
  v.integer({"qk_rope_head_dim", "width of the part that turns, one key for all heads; even, or 0"},
            qk_rope_head_dim, {.min = 0});
  v.integer({"v_head_dim", "width of a value"}, v_head_dim, {.min = 1});
  v.number({"rope_theta", "base of the rotary frequencies"}, rope_theta, {.min = 1.0});
  v.optional_object(
      {"rope_scaling", "stretches the rotary frequencies to a longer context"}, rope_scaling,
      [] { return std::make_shared<RopeScalingConfig>(); }, "none");
  v.number({"mscale_all_dim", "yarn: scores are scaled by (0.1 * this * ln(factor) + 1)^2"},
           mscale_all_dim, {.min = 0.0});
  v.integer({"max_position_embeddings", "longest document, in tokens, that can be rotated"},
            max_position_embeddings, {.min = 1, .max = int64_t{1} << 24});
  v.number({"norm_eps", "epsilon of the latents' RMSNorm"}, norm_eps,
           {.min = 0.0, .exclusive_min = true});
}

std::string LatentAttentionConfig::check() const {
  if (qk_rope_head_dim % 2 != 0) {
    return fmt::format("qk_rope_head_dim: found {}, allowed an even number", qk_rope_head_dim);
  }
  return {};
}

double LatentAttentionConfig::score_scale() const {
  const double plain = 1.0 / std::sqrt(static_cast<double>(qk_nope_head_dim + qk_rope_head_dim));
  const auto* scaling = dynamic_cast<const RopeScalingConfig*>(rope_scaling.get());
  if (scaling == nullptr || scaling->type != "yarn") return plain;
  const double mscale = 0.1 * mscale_all_dim * std::log(scaling->factor) + 1.0;
  return plain * mscale * mscale;
}

namespace {

RopeConfig rotation_of(const LatentAttentionConfig& config) {
  RopeConfig rope =
      rope_config(config.qk_rope_head_dim, config.rope_theta, config.rope_scaling.get());
  rope.attention_factor = 1.0;  // score_scale() has it
  return rope;
}

/// [c | kR], rotated, of every token so far.
class LatentCache final : public MixerState {
 public:
  LatentCache(Pool& pool, const Shape& shape, DType dtype) : rows(pool, shape, dtype) {}
  [[nodiscard]] int64_t length() const override { return rows.length(); }

  RowCache rows;  // [capacity, rc + dr]
};

class LatentAttention final : public Mixer {
 public:
  LatentAttention(const Builder& b, const ModelConfig& model, const LatentAttentionConfig& config)
      : heads_(config.num_heads),
        nope_(config.qk_nope_head_dim),
        rope_(config.qk_rope_head_dim),
        value_(config.v_head_dim),
        latent_(config.kv_lora_rank),
        scale_(config.score_scale()),
        norm_eps_(config.norm_eps) {
    const int64_t d = model.hidden_size;
    const int64_t rq = config.q_lora_rank.value_or(0);
    if (rq > 0) {
      q_a_ = &child(std::make_unique<Linear>(b, LinearSpec{"q_a", d, rq}));
      q_a_norm_ = &parameter(b, "q_a_norm", {rq}, ParameterKind::norm, Init::ones());
    }
    q_ = &child(std::make_unique<Linear>(
        b, LinearSpec{rq > 0 ? "q_b" : "q", rq > 0 ? rq : d, heads_ * (nope_ + rope_)}));
    kv_a_ = &child(std::make_unique<Linear>(b, LinearSpec{"kv_a", d, latent_ + rope_}));
    kv_a_norm_ = &parameter(b, "kv_a_norm", {latent_}, ParameterKind::norm, Init::ones());
    kv_b_ =
        &child(std::make_unique<Linear>(b, LinearSpec{"kv_b", latent_, heads_ * (nope_ + value_)}));
    kv_b_->stay_f32();  // decoding takes it apart by heads
    o_ = &child(
        std::make_unique<Linear>(b, LinearSpec{"o", heads_ * value_, d, false, Init::residual()}));
    if (rope_ > 0) {
      table_ = rope_table(b.pool(), b.dtype(), rotation_of(config), config.max_position_embeddings);
    }
  }

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::attention);
    const int64_t tokens = x.dim(0);
    const Latent latent = compress(context, x);
    const Tensor kv =
        reshape(tape, kv_b_->forward(context, latent.c), {tokens * heads_, nope_ + value_});
    Tensor k = slice_columns(tape, kv, 0, nope_);
    if (rope_ > 0) {
      // One kR for all heads: its gradient is the sum of theirs.
      const std::vector<Tensor> copies(static_cast<size_t>(heads_), latent.k_rope);
      const Tensor each = reshape(tape, concat_columns(tape, copies), {tokens * heads_, rope_});
      k = concat_columns(tape, std::vector<Tensor>{k, each});
    }
    k = reshape(tape, k, {tokens, heads_, nope_ + rope_});
    const Tensor v =
        reshape(tape, slice_columns(tape, kv, nope_, nope_ + value_), {tokens, heads_, value_});
    CausalAttentionOptions options{context.layout.document_offsets, scale_};
    if (rope_ > 0) {
      options.rope = {context.layout.positions, table_, RopeLayout::interleaved, nope_};
    }
    return output(context, causal_attention(tape, queries(context, x), k, v, options));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    return std::make_unique<LatentCache>(pool, Shape{capacity, latent_ + rope_}, dtype);
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& /*block*/,
                MixerState& state) const override {
    Tape& tape = context.tape;
    const NoGrad no_grad(tape);
    const PhaseScope phase(tape, Phase::attention);
    auto& cache = dynamic_cast<LatentCache&>(state);
    const Latent latent = compress(context, x);
    cache.rows.append(
        rope_ == 0
            ? latent.c
            : concat_columns(tape, std::vector<Tensor>{latent.c, turn(context, latent.k_rope, 1)}));
    const Tensor mixed =
        cached_latent_attention(tape, latent_queries(context, queries(context, x)),
                                cache.rows.rows(), latent_, {cache.length(), scale_});
    return output(context, values_of(context, mixed));
  }

 private:
  struct Latent {
    Tensor c;       // [N, rc], normalised
    Tensor k_rope;  // [N, dr], not rotated; undefined without
  };

  [[nodiscard]] Latent compress(const ForwardContext& context, const Tensor& x) const {
    Tape& tape = context.tape;
    const Tensor both = kv_a_->forward(context, x);
    const Tensor c = rope_ == 0 ? both : slice_columns(tape, both, 0, latent_);
    return {rms_norm(tape, c, tape.use(*kv_a_norm_), norm_eps_),
            rope_ == 0 ? Tensor() : slice_columns(tape, both, latent_, latent_ + rope_)};
  }

  /// [N, H, dn + dr], not rotated.
  [[nodiscard]] Tensor queries(const ForwardContext& context, const Tensor& x) const {
    Tape& tape = context.tape;
    Tensor from = x;
    if (q_a_ != nullptr) {
      from = rms_norm(tape, q_a_->forward(context, x), tape.use(*q_a_norm_), norm_eps_);
    }
    return reshape(tape, q_->forward(context, from), {x.dim(0), heads_, nope_ + rope_});
  }

  /// x [N, heads * dr], each head rotated.
  [[nodiscard]] Tensor turn(const ForwardContext& context, const Tensor& x, int64_t heads) const {
    Tape& tape = context.tape;
    const Tensor turned = rope(tape, reshape(tape, x, {x.dim(0), heads, rope_}),
                               context.layout.positions, table_, RopeLayout::interleaved);
    return reshape(tape, turned, x.shape());
  }

  /// UK_h [dn, rc] or UV_h [dv, rc]: rows of W_kv_b.
  [[nodiscard]] Tensor key_map(Tape& tape, int64_t head) const {
    const int64_t begin = head * (nope_ + value_);
    return slice_rows(tape, kv_b_->weight(tape), begin, begin + nope_);
  }
  [[nodiscard]] Tensor value_map(Tape& tape, int64_t head) const {
    const int64_t begin = head * (nope_ + value_) + nope_;
    return slice_rows(tape, kv_b_->weight(tape), begin, begin + value_);
  }

  /// q [n, H, dn + dr] -> [qC_h UK_h | RoPE(qR_h)]: [n, H, rc + dr].
  [[nodiscard]] Tensor latent_queries(const ForwardContext& context, const Tensor& q) const {
    Tape& tape = context.tape;
    const int64_t tokens = q.dim(0);
    const Tensor rows = reshape(tape, q, {tokens * heads_, nope_ + rope_});
    const Tensor plain =
        reshape(tape, slice_columns(tape, rows, 0, nope_), {tokens, heads_ * nope_});
    Tensor turned;
    if (rope_ > 0) {
      turned = turn(
          context,
          reshape(tape, slice_columns(tape, rows, nope_, nope_ + rope_), {tokens, heads_ * rope_}),
          heads_);
    }
    std::vector<Tensor> parts;
    for (int64_t h = 0; h < heads_; ++h) {
      parts.push_back(
          matmul(tape, slice_columns(tape, plain, h * nope_, (h + 1) * nope_), key_map(tape, h)));
      if (rope_ > 0) parts.push_back(slice_columns(tape, turned, h * rope_, (h + 1) * rope_));
    }
    return reshape(tape, concat_columns(tape, parts), {tokens, heads_, latent_ + rope_});
  }

  /// mixed [n, H, rc] -> [n, H, dv].
  [[nodiscard]] Tensor values_of(const ForwardContext& context, const Tensor& mixed) const {
    Tape& tape = context.tape;
    const int64_t tokens = mixed.dim(0);
    const Tensor rows = reshape(tape, mixed, {tokens, heads_ * latent_});
    std::vector<Tensor> parts;
    for (int64_t h = 0; h < heads_; ++h) {
      parts.push_back(linear(tape, slice_columns(tape, rows, h * latent_, (h + 1) * latent_),
                             value_map(tape, h)));
    }
    return reshape(tape, concat_columns(tape, parts), {tokens, heads_, value_});
  }

  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& mixed) const {
    return o_->forward(context, reshape(context.tape, mixed, {mixed.dim(0), heads_ * value_}));
  }

  int64_t heads_;
  int64_t nope_;    // dn
  int64_t rope_;    // dr
  int64_t value_;   // dv
  int64_t latent_;  // rc
  double scale_;
  double norm_eps_;
  RopeTable table_;
  Linear* q_a_ = nullptr;
  Parameter* q_a_norm_ = nullptr;
  Linear* q_;  // from the query latent, or from x
  Linear* kv_a_;
  Parameter* kv_a_norm_;
  Linear* kv_b_;
  Linear* o_;
};

}  // namespace

const MixerEntry latent_attention_mixer = {
    .name = "latent_attention",
    .symbol = 'C',
    .section = "latent_attention",
    .doc = "multi-head latent attention: keys and values from one latent (DeepSeek-V2 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<LatentAttentionConfig>();
    },
    .check = nullptr,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      return std::make_unique<LatentAttention>(b.child("latent_attention"), model,
                                               dynamic_cast<const LatentAttentionConfig&>(config));
    },
    .longest_document = [](const Configurable& config) -> std::optional<int64_t> {
      const auto& latent = dynamic_cast<const LatentAttentionConfig&>(config);
      if (latent.qk_rope_head_dim == 0) return {};
      return latent.max_position_embeddings;
    },
};

}  // namespace sluice
