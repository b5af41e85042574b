#include "layers/mixers/attention.h"

#include "autograd/ops/causal_attention.h"
#include "layers/attention_map.h"
#include "layers/key_value_sharing.h"
#include "layers/model.h"

namespace sluice {

void AttentionConfig::fields(FieldVisitor& v) {
  AttentionHeadsConfig::fields(v);
  v.optional_integer({"window", "tokens a token sees, itself included; none: all before it"},
                     window, {.min = 1}, "none");
  v.integers({"head_windows",
              "a window for each key/value head, for the query heads that read it too, instead of "
              "window; empty: none"},
             head_windows, {.min = 1});
}

std::string AttentionConfig::check() const {
  if (!head_windows.empty() && std::ssize(head_windows) != kv_heads()) {
    return fmt::format("head_windows: found {} windows, allowed {} (num_kv_heads) or none",
                       head_windows.size(), kv_heads());
  }
  if (!head_windows.empty() && window) {
    return fmt::format("window: found {}, allowed none beside head_windows", *window);
  }
  return AttentionHeadsConfig::check();
}

namespace {

/// Queries and keys of the latest pass, for layers that read the attention.
constexpr std::string_view kSharedQueries = "attention.q";
constexpr std::string_view kSharedKeys = "attention.k";

class Attention final : public Mixer, public AttentionSource {
 public:
  Attention(const Builder& b, std::unique_ptr<AttentionHeads> heads, const AttentionConfig& config)
      : heads_(child(std::move(heads))),
        shared_(b.path()),
        window_(config.window),
        head_windows_(config.head_windows) {}

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    // Attention turns queries and keys itself as it reads them, unless somebody else reads them too.
    const bool turns_early = is_shared_;
    CausalAttentionOptions options{context.layout.document_offsets, heads_.scale(), window_};
    options.windows = head_windows_;
    if (!turns_early) options.rope = heads_.rope(context);
    if (SharedKeyValues::reads(context)) {
      const Tensor q = heads_.queries(context, x, turns_early);
      return heads_.output(context, shared_.attend(context, state, q, options));
    }
    const AttentionHeads::Projections p = heads_.project(context, x, turns_early);
    if (is_shared_) {
      state.side[kSharedQueries] = p.q;
      state.side[kSharedKeys] = p.k;
    }
    shared_.keep(context, state, p.k, p.v);
    return heads_.output(context, causal_attention(context.tape, p.q, p.k, p.v, options));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    return std::make_unique<KeyValueCache>(
        pool, Shape{capacity, heads_.kv_heads(), heads_.head_dim()}, dtype);
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& block,
                MixerState& state) const override {
    const PhaseScope phase(context.tape, Phase::attention);
    auto& cache = dynamic_cast<KeyValueCache&>(state);
    const auto options = [&] {
      return CachedAttentionOptions{cache.length(), heads_.scale(), window_, head_windows_};
    };
    if (SharedKeyValues::reads(context)) {
      const Tensor q = heads_.queries(context, x, true);
      return heads_.output(context, SharedKeyValues::attend_cached(context, q, cache, options()));
    }
    const AttentionHeads::Projections p = heads_.project(context, x, true);
    cache.keys.append(p.k);
    cache.values.append(p.v);
    if (is_shared_) {
      block.side[kSharedQueries] = p.q;
      block.side[kSharedKeys] = cache.keys.filled(context.tape.pool());
    }
    const Tensor mixed =
        cached_attention(context.tape, p.q, cache.keys.rows(), cache.values.rows(), options());
    return heads_.output(context, mixed);
  }

  AttentionSource* attention_source() override { return this; }
  void share() override { is_shared_ = true; }
  AttentionMap attention(const BlockState& state) const override {
    return {state.side.at(kSharedQueries), state.side.at(kSharedKeys), heads_.scale(), window_,
            head_windows_};
  }

 private:
  const AttentionHeads& heads_;
  SharedKeyValues shared_;
  std::optional<int64_t> window_;
  std::vector<int64_t> head_windows_;  // [K], or empty
  bool is_shared_ = false;
};

}  // namespace

std::unique_ptr<Mixer> make_attention(const Builder& b, std::unique_ptr<AttentionHeads> heads,
                                      const AttentionConfig& config) {
  return std::make_unique<Attention>(b, std::move(heads), config);
}

const MixerEntry attention_mixer = {
    .name = "attention",
    .symbol = 'A',
    .section = "attention",
    .doc = "causal self-attention, MHA, GQA or MQA (Vaswani et al. 2017; Ainslie et al. 2023)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<AttentionConfig>();
    },
    .check = check_head_width,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      const auto& settings = dynamic_cast<const AttentionConfig&>(config);
      const Builder own = b.child("attention");
      return make_attention(own, std::make_unique<AttentionHeads>(own, model, settings), settings);
    },
    .attends = true,
    .longest_document = longest_rotated_document,
    .shares_key_values = true,
};

}  // namespace sluice
