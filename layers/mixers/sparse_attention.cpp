#include "layers/mixers/sparse_attention.h"

#include "autograd/ops/key_chunks.h"
#include "layers/key_value_cache.h"
#include "layers/model.h"

namespace sluice {

void SparseAttentionConfig::fields(FieldVisitor& v) {
  AttentionHeadsConfig::fields(v);
  v.integer({"window", "tokens a token sees in any case, itself included"}, window, {.min = 1});
  v.integer({"chunk_size", "tokens of a chunk, counted from the document's first"}, chunk_size,
            {.min = 1});
  v.integer({"first_chunks", "chunks at the start of a document that every token sees"},
            first_chunks, {.min = 0});
  v.integer({"chosen_chunks", "earlier chunks chosen for each token and key/value head"},
            chosen_chunks, {.min = 0});
  gate.fields(v);
}

namespace {

class ChunkedCache final : public KeyValueCache {
 public:
  ChunkedCache(Pool& pool, const Shape& shape, DType dtype, KeyChunkMemory chunks_)
      : KeyValueCache(pool, shape, dtype), chunks(std::move(chunks_)) {}

  KeyChunkMemory chunks;
};

class SparseAttention final : public Mixer {
 public:
  SparseAttention(const Builder& b, const ModelConfig& model, const SparseAttentionConfig& config)
      : heads_(child(std::make_unique<AttentionHeads>(b, model, config))),
        gate_(child(std::make_unique<OutputGate>(b, model.hidden_size, config.gate))),
        options_{config.chunk_size, config.first_chunks, config.window, config.chosen_chunks} {}

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 BlockState& /*state*/) const override {
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::attention);
    const AttentionHeads::Projections p = heads_.project(context, x, true);
    const auto documents = std::span<const int64_t>(context.layout.document_offsets);
    CausalAttentionOptions options{documents, heads_.scale(), options_.window};
    options.chunks = {options_.chunk, options_.first,
                      choose_key_chunks(tape, p.q, p.k, documents, options_)};
    return output(context, x, causal_attention(tape, p.q, p.k, p.v, options));
  }

  std::unique_ptr<MixerState> make_state(Pool& pool, DType dtype, int64_t capacity) const override {
    return std::make_unique<ChunkedCache>(
        pool, Shape{capacity, heads_.kv_heads(), heads_.head_dim()}, dtype,
        key_chunk_memory(pool, dtype, capacity, heads_.kv_heads(), heads_.head_dim(), options_));
  }

  Tensor decode(const ForwardContext& context, const Tensor& x, BlockState& /*block*/,
                MixerState& state) const override {
    Tape& tape = context.tape;
    const PhaseScope phase(tape, Phase::attention);
    auto& cache = dynamic_cast<ChunkedCache&>(state);
    const AttentionHeads::Projections p = heads_.project(context, x, true);
    cache.keys.append(p.k);
    cache.values.append(p.v);
    CachedAttentionOptions options{cache.length(), heads_.scale(), options_.window};
    options.chunks = {
        options_.chunk, options_.first,
        choose_key_chunks(tape, p.q, cache.keys.rows(), cache.length(), cache.chunks, options_)};
    return output(context, x,
                  cached_attention(tape, p.q, cache.keys.rows(), cache.values.rows(), options));
  }

 private:
  [[nodiscard]] Tensor output(const ForwardContext& context, const Tensor& x,
                              const Tensor& mixed) const {
    return gate_.apply(context, x, heads_.output(context, mixed));
  }

  const AttentionHeads& heads_;
  const OutputGate& gate_;
  KeyChunkOptions options_;
};

}  // namespace

const MixerEntry sparse_attention_mixer = {
    .name = "sparse_attention",
    .symbol = 'V',
    .section = "sparse_attention",
    .doc = "attention to a window, the first chunks and the best earlier ones (Hydra proposal)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<SparseAttentionConfig>();
    },
    .check = check_head_width,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<Mixer> {
      return std::make_unique<SparseAttention>(b.child("sparse_attention"), model,
                                               dynamic_cast<const SparseAttentionConfig&>(config));
    },
    .longest_document = longest_rotated_document,
};

}  // namespace sluice
