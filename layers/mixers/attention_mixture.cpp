#include "layers/mixers/attention_mixture.h"

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "layers/key_value_sharing.h"
#include "layers/model.h"

namespace sluice {

void AttentionMixtureConfig::fields(FieldVisitor& v) {
  v.integer({"num_experts", "attention experts, all of which every token uses"}, num_experts,
            {.min = 1});
  v.boolean({"share_keys", "one set of keys and values for all experts"}, share_keys);
  AttentionHeadsConfig::fields(v);
  v.optional_integer({"window", "tokens a token sees, itself included; none: all before it"},
                     window, {.min = 1}, "none");
}

std::string AttentionMixtureConfig::check() const {
  if (qk_norm == "full") {
    return "qk_norm: found full, which would norm the heads of all experts together, allowed none "
           "or per_head";
  }
  return AttentionHeadsConfig::check();
}

namespace {

/// The heads of all experts.
AttentionHeadsConfig heads_of_all(const ModelConfig& model, const AttentionMixtureConfig& config) {
  AttentionHeadsConfig all = config;
  all.head_dim = config.head_dim.value_or(model.hidden_size / config.num_heads);
  all.num_heads = config.num_experts * config.num_heads;
  all.num_kv_heads = (config.share_keys ? 1 : config.num_experts) * config.kv_heads();
  return all;
}

class AttentionMixture final : public Mixer {
 public:
  AttentionMixture(const Builder& b, const ModelConfig& model, const AttentionMixtureConfig& config)
      : experts_(config.num_experts),
        window_(config.window),
        router_(parameter(b, "w_router", {experts_, model.hidden_size}, ParameterKind::router)),
        heads_(child(std::make_unique<AttentionHeads>(b, model, heads_of_all(model, config)))),
        shared_(b.path()),
        block_(config.share_keys ? config.num_heads / config.kv_heads() : config.num_heads) {}

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    CausalAttentionOptions options{context.layout.document_offsets, heads_.scale(), window_};
    options.rope = heads_.rope(context);
    if (SharedKeyValues::reads(context)) {
      const Tensor q = heads_.queries(context, x, false);
      return output(context, x, shared_.attend(context, state, q, options));
    }
    const AttentionHeads::Projections p = heads_.project(context, x, false);
    shared_.keep(context, state, p.k, p.v);
    return output(context, x, causal_attention(context.tape, p.q, p.k, p.v, options));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    return std::make_unique<KeyValueCache>(
        pool, Shape{capacity, heads_.kv_heads(), heads_.head_dim()}, dtype);
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& /*block*/,
                MixerState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    auto& cache = dynamic_cast<KeyValueCache&>(state);
    const auto options = [&] {
      return CachedAttentionOptions{cache.length(), heads_.scale(), window_};
    };
    if (SharedKeyValues::reads(context)) {
      const Tensor q = heads_.queries(context, x, true);
      return output(context, x, SharedKeyValues::attend_cached(context, q, cache, options()));
    }
    const AttentionHeads::Projections p = heads_.project(context, x, true);
    cache.keys.append(p.k);
    cache.values.append(p.v);
    return output(
        context, x,
        cached_attention(context.tape, p.q, cache.keys.rows(), cache.values.rows(), options()));
  }

 private:
  /// The weights [N, E] of the experts, for each head: [N, E H].
  [[nodiscard]] Tensor head_weights(Tape& tape, const Tensor& x) const {
    const Tensor weights = softmax(tape, linear(tape, x, tape.use(router_)));
    const int64_t heads = heads_.heads();
    Tensor expert = Tensor::empty(tape.pool(), {x.dim(0), heads}, DType::i32);
    if (expert.has_memory()) {
      const auto experts = expert.span<int32_t>();
      for (size_t i = 0; i < experts.size(); ++i) {
        const int64_t head = static_cast<int64_t>(i) % heads;
        experts[i] = static_cast<int32_t>(head / block_ % experts_);
      }
    }
    return gather_last(tape, weights, expert);
  }

  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& x,
                              const Tensor& mixed) const {
    Tape& tape = context.tape;
    const int64_t rows = x.dim(0) * heads_.heads();
    const Tensor weights = reshape(tape, head_weights(tape, x), {rows});
    const Tensor weighed = mul_rows(tape, reshape(tape, mixed, {rows, heads_.head_dim()}), weights);
    return heads_.output(context, reshape(tape, weighed, mixed.shape()));
  }

  int64_t experts_;
  std::optional<int64_t> window_;
  Parameter& router_;  // [E, D]
  const AttentionHeads& heads_;
  SharedKeyValues shared_;
  int64_t block_;  // heads of one expert that lie side by side
};

}  // namespace

const MixerEntry attention_mixture_mixer = {
    .name = "attention_mixture",
    .symbol = 'U',
    .section = "attention_mixture",
    .doc = "soft mixture of attention experts, keys shared or not (BAM 2024)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<AttentionMixtureConfig>();
    },
    .check = check_head_width,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      return std::make_unique<AttentionMixture>(
          b.child("attention_mixture"), model, dynamic_cast<const AttentionMixtureConfig&>(config));
    },
    .longest_document = longest_rotated_document,
    .shares_key_values = true,
};

}  // namespace sluice
