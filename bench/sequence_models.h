#pragma once
// Models of one width that differ in their mixers, and made-up sequences of any length for them: what
// a mixer costs as sequences grow.
//
//   layer   a mixer alone (hidden size 384, vocabulary of 256): "M", "A"
//   model   9.3 M parameters each, as recipes/mamba_small.yaml and recipes/dense_small.yaml: "Mx8",
//           "(AF)x6"; and a hybrid of them, "(MF)x2 AF (MF)x3"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/clock.h"
#include "layers/ffns/dense.h"
#include "layers/mixers/attention.h"
#include "layers/mixers/mamba2.h"
#include "layers/model.h"

namespace sluice::bench {

inline constexpr int64_t kSequenceWidth = 384;

/// The section `name` of a model's config.
template <class Config>
[[nodiscard]] Config& section_of(ModelConfig& config, const char* name) {
  return dynamic_cast<Config&>(config.section(name));
}

[[nodiscard]] inline ModelConfig sequence_config(const std::string& pattern, int64_t vocab_size) {
  ModelConfig config;
  config.pattern = pattern;
  config.hidden_size = kSequenceWidth;
  config.vocab_size = vocab_size;
  auto& attention = section_of<AttentionConfig>(config, "attention");
  attention.num_heads = 6;
  attention.num_kv_heads = 2;
  attention.max_position_embeddings = int64_t{1} << 15;
  section_of<DenseConfig>(config, "feed_forward").intermediate_size = 768;
  section_of<Mamba2Config>(config, "mamba2").state_size = 96;
  return config;
}

/// A model without experts, and a batch of documents of one length.
class SequenceModel {
 public:
  explicit SequenceModel(const std::string& pattern, int64_t vocab_size = 256)
      : vocab_size_(vocab_size), model_(pool_, sequence_config(pattern, vocab_size), 1) {}

  [[nodiscard]] const Model& model() const { return model_; }
  [[nodiscard]] Pool& pool() { return pool_; }

  /// Seconds of forward, loss and backward of `tokens` tokens in documents of `length`.
  [[nodiscard]] double step(int64_t tokens, int64_t length) {
    if (length != length_) set_documents(tokens, length);
    for (Parameter* parameter : model_.parameters()) parameter->zero_grad(pool_);
    const double start = wall_seconds();
    tape_.backward(model_.loss(context(layout_), tokens_, targets_).total);
    tape_.reset();
    return wall_seconds() - start;
  }

  /// The next `tokens` tokens of a sequence.
  [[nodiscard]] Tensor decode(const std::vector<int32_t>& tokens, DecodeState& state) {
    const NoGrad no_grad(tape_);
    const auto count = static_cast<int64_t>(tokens.size());
    const SequenceLayout layout = SequenceLayout::single(pool_, count, state.length);
    const Tensor hidden =
        model_.decode(context(layout), Tensor::of<int32_t>(pool_, {count}, tokens), state);
    return model_.logits(context(layout), hidden);
  }

  [[nodiscard]] std::vector<int32_t> random_tokens(int64_t count) const {
    std::vector<int32_t> result;
    for (int64_t i = 0; i < count; ++i) {
      result.push_back(static_cast<int32_t>(uniform_below({.seed = 1}, 0, static_cast<uint64_t>(i),
                                                          static_cast<uint64_t>(vocab_size_))));
    }
    return result;
  }

 private:
  void set_documents(int64_t tokens, int64_t length) {
    length_ = length;
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < tokens; ++i) positions.push_back(static_cast<int32_t>(i % length));
    layout_ = {};
    for (int64_t i = 0; i <= tokens; i += length) layout_.document_offsets.push_back(i);
    layout_.sequence_offsets = layout_.document_offsets;
    layout_.document_domains.assign(static_cast<size_t>(tokens / length), 0);
    layout_.global_samples.assign(static_cast<size_t>(tokens / length), 0);
    layout_.counted.assign(static_cast<size_t>(tokens), 1);
    layout_.positions = Tensor::of<int32_t>(pool_, {tokens}, positions);
    tokens_ = Tensor::of<int32_t>(pool_, {tokens}, random_tokens(tokens));
    targets_ = tokens_;
  }
  [[nodiscard]] ForwardContext context(const SequenceLayout& layout) {
    return {.tape = tape_, .layout = layout, .valid_tokens = std::max<int64_t>(1, layout.tokens())};
  }

  Pool pool_;
  int64_t vocab_size_;
  Model model_;
  Tape tape_{pool_};
  SequenceLayout layout_;
  Tensor tokens_;
  Tensor targets_;
  int64_t length_ = 0;
};

}  // namespace sluice::bench
