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
#include <string>
#include <vector>

#include "autograd/support/fields.h"

namespace sluice {

/// `model.attention` of a recipe.
struct AttentionConfig final : Configurable {
  int64_t num_heads = 8;
  std::optional<int64_t> num_kv_heads;  // auto: num_heads
  std::optional<int64_t> head_dim;      // auto: hidden_size / num_heads
  std::optional<double> rope_theta = 10000.0;
  std::string rope_layout = "half_split";
  std::shared_ptr<Configurable> rope_scaling;  // RopeScalingConfig, or null
  int64_t max_position_embeddings = 8192;
  std::string qk_norm = "none";
  std::string bias = "none";
  std::optional<int64_t> window;
  /// One for each key/value head, instead of `window`: spans that differ by head, as a mixture of
  /// attention spans sets them.
  std::vector<int64_t> head_windows;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;

  [[nodiscard]] int64_t kv_heads() const { return num_kv_heads.value_or(num_heads); }
};

}  // namespace sluice
