#pragma once
// Causal self-attention over the documents of a packed batch.
//
// Vaswani et al. 2017; grouped queries: Ainslie et al. 2023 (query head h reads key head h / (H /
// K)); rotary positions: Su et al. 2021; QK-norm: Qwen3 (per head) and OLMoE (full width). Order:
// project, bias, QK-norm, rotate, scores times P^(-1/2), softmax, times V, output projection.
//
// Letters: N tokens, D hidden size, H query heads, K key/value heads, P head width.

#include <memory>
#include <optional>
#include <vector>

#include "layers/attention_heads.h"
#include "layers/sublayer.h"

namespace sluice {

/// `model.attention` of a recipe.
struct AttentionConfig : AttentionHeadsConfig {
  std::optional<int64_t> window;
  /// One for each key/value head, instead of `window`: spans that differ by head, as a mixture of
  /// attention spans sets them.
  std::vector<int64_t> head_windows;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

/// The mixer whose queries, keys and values these heads project; `b` is the builder they were made from.
[[nodiscard]] std::unique_ptr<Mixer> make_attention(const Builder& b,
                                                    std::unique_ptr<AttentionHeads> heads,
                                                    const AttentionConfig& config);

}  // namespace sluice
