#include "layers/mixers/attention.h"

#include <array>
#include <cmath>

#include "autograd/ops/causal_attention.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/rope.h"
#include "layers/attention_map.h"
#include "layers/linear.h"
#include "layers/model.h"
#include "layers/rotary.h"
#include "layers/row_cache.h"

namespace sluice {

void AttentionConfig::fields(FieldVisitor& v) {
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
  v.optional_integer({"window", "tokens a token sees, itself included; none: all before it"},
                     window, {.min = 1}, "none");
  v.integers({"head_windows",
              "a window for each key/value head, for the query heads that read it too, instead of "
              "window; empty: none"},
             head_windows, {.min = 1});
}

std::string AttentionConfig::check() const {
  if (num_heads % kv_heads() != 0) {
    return fmt::format("num_kv_heads: found {}, allowed a divisor of num_heads ({})", kv_heads(),
                       num_heads);
  }
  if (head_dim && *head_dim % 2 != 0 && rope_theta) {
    return fmt::format("head_dim: found {}, allowed an even number with rotary positions",
                       *head_dim);
  }
  if (!head_windows.empty() && std::ssize(head_windows) != kv_heads()) {
    return fmt::format("head_windows: found {} windows, allowed {} (num_kv_heads) or none",
                       head_windows.size(), kv_heads());
  }
  if (!head_windows.empty() && window) {
    return fmt::format("window: found {}, allowed none beside head_windows", *window);
  }
  return {};
}

namespace {

std::string check_attention(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const AttentionConfig&>(section);
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

/// Queries and keys of the latest pass, for layers that read the attention.
constexpr std::string_view kSharedQueries = "attention.q";
constexpr std::string_view kSharedKeys = "attention.k";

/// Keys after rotation and values of every token so far, in order.
class KeyValueCache final : public MixerState {
 public:
  KeyValueCache(Pool& pool, const Shape& shape, DType dtype)
      : keys(pool, shape, dtype), values(pool, shape, dtype) {}
  [[nodiscard]] int64_t length() const override { return keys.length(); }

  RowCache keys;    // [capacity, K, P]
  RowCache values;  // [capacity, K, P]
};

class Attention final : public Mixer, public AttentionSource {
 public:
  Attention(const Builder& b, const ModelConfig& model, const AttentionConfig& config)
      : heads_(config.num_heads),
        kv_heads_(config.kv_heads()),
        head_dim_(config.head_dim.value_or(model.hidden_size / config.num_heads)),
        window_(config.window),
        head_windows_(config.head_windows),
        norm_eps_(model.norm.eps),
        full_norm_(config.qk_norm == "full"),
        layout_(config.rope_layout == "half_split" ? RopeLayout::half_split
                                                   : RopeLayout::interleaved) {
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
    if (config.rope_theta) {
      table_ = rope_table(b.pool(), b.dtype(),
                          rope_config(head_dim_, *config.rope_theta, config.rope_scaling.get()),
                          config.max_position_embeddings);
    }
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    // Attention turns queries and keys itself as it reads them, unless somebody else reads them too.
    const bool turns_early = is_shared_;
    const Projections p = project(context, x, turns_early);
    if (is_shared_) {
      state.side[kSharedQueries] = p.q;
      state.side[kSharedKeys] = p.k;
    }
    CausalAttentionOptions options{context.layout.document_offsets, scale(), window_};
    options.windows = head_windows_;
    if (table_.cos.defined() && !turns_early) {
      options.rope = {context.layout.positions, table_, layout_};
    }
    return output(context, causal_attention(context.tape, p.q, p.k, p.v, options));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    return std::make_unique<KeyValueCache>(pool, Shape{capacity, kv_heads_, head_dim_}, dtype);
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& block,
                MixerState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    auto& cache = dynamic_cast<KeyValueCache&>(state);
    const Projections p = project(context, x, true);
    cache.keys.append(p.k);
    cache.values.append(p.v);
    if (is_shared_) {
      block.side[kSharedQueries] = p.q;
      block.side[kSharedKeys] = cache.keys.filled(context.tape.pool());
    }
    const Tensor mixed = cached_attention(context.tape, p.q, cache.keys.rows(), cache.values.rows(),
                                          {cache.length(), scale(), window_, head_windows_});
    return output(context, mixed);
  }

  AttentionSource* attention_source() override { return this; }
  void share() override { is_shared_ = true; }
  AttentionMap attention(const BlockState& state) const override {
    return {state.side.at(kSharedQueries), state.side.at(kSharedKeys), scale(), window_,
            head_windows_};
  }

 private:
  struct Projections {
    Tensor q;  // [N, H, P]
    Tensor k;  // [N, K, P]
    Tensor v;  // [N, K, P]
  };

  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim_)); }

  [[nodiscard]] Projections project(const ForwardContext& context, const Tensor& x,
                                    bool turns) const {
    const auto [q, k, v] = Linear::forward_joint<3>(context, x, {q_, k_, v_});
    return {prepare(context, q, heads_, q_norm_, turns),
            prepare(context, k, kv_heads_, k_norm_, turns), split_heads(context, v, kv_heads_)};
  }

  [[nodiscard]] Tensor split_heads(const ForwardContext& context, const Tensor& x,
                                   int64_t heads) const {
    return reshape(context.tape, x, {x.dim(0), heads, head_dim_});
  }

  /// QK-norm, then, when it `turns` here, rotation: [N, heads * P] -> [N, heads, P].
  [[nodiscard]] Tensor prepare(const ForwardContext& context, Tensor x, int64_t heads,
                               Parameter* norm, bool turns) const {
    Tape& tape = context.tape;
    if (norm != nullptr && full_norm_) x = rms_norm(tape, x, tape.use(*norm), norm_eps_);
    x = split_heads(context, x, heads);
    if (norm != nullptr && !full_norm_) x = rms_norm(tape, x, tape.use(*norm), norm_eps_);
    if (!turns || !table_.cos.defined()) return x;
    return rope(tape, x, context.layout.positions, table_, layout_);
  }

  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& mixed) const {
    return o_->forward(context, reshape(context.tape, mixed, {mixed.dim(0), heads_ * head_dim_}));
  }

  int64_t heads_;
  int64_t kv_heads_;
  int64_t head_dim_;
  std::optional<int64_t> window_;
  std::vector<int64_t> head_windows_;  // [K], or empty
  double norm_eps_;
  bool full_norm_;
  bool is_shared_ = false;
  RopeLayout layout_;
  RopeTable table_;
  Linear* q_;
  Linear* k_;
  Linear* v_;
  Linear* o_;
  Parameter* q_norm_ = nullptr;
  Parameter* k_norm_ = nullptr;
};

}  // namespace

const MixerEntry attention_mixer = {
    .name = "attention",
    .symbol = 'A',
    .section = "attention",
    .doc = "causal self-attention, MHA, GQA or MQA (Vaswani et al. 2017; Ainslie et al. 2023)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<AttentionConfig>();
    },
    .check = check_attention,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      return std::make_unique<Attention>(b.child("attention"), model,
                                         dynamic_cast<const AttentionConfig&>(config));
    },
    .attends = true,
    .longest_document = [](const Configurable& section) -> std::optional<int64_t> {
      const auto& config = dynamic_cast<const AttentionConfig&>(section);
      if (!config.rope_theta) return std::nullopt;
      return config.max_position_embeddings;
    },
};

}  // namespace sluice
