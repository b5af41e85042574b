#pragma once
// MoH, mixture of heads (Jin et al. 2024, "MoH: Multi-Head Attention as Mixture-of-Head Attention",
// section 3.2 and its code): attention whose heads are experts. y = sum_h g_h o_h Wo_h, where a token
// uses all shared heads and k of the routed ones:
//
//   routed  g_h = w_2 k p_h / (sum of chosen p), p = softmax(x W_r^T), 0 for heads not chosen
//   shared  g_h = w_1 S softmax(x W_s^T)_h, S shared heads; w_1 for a single one
//   [w_1, w_2] = 2 softmax(x W_0^T); without shared heads w_2 = 1
//
// With `gates: query_norm` there are no parameters beside attention's, so that a trained model can go on
// as one: routed heads are scored by the norms of their queries and those chosen weigh 1, as all shared
// heads do (routers/query_norm.h; section 4.3 of the paper).
//
// The weights of chosen heads and who chooses them are those of layers/routed_layer.h; published: top-k,
// renormalised, the Switch loss. All heads compute their keys and values, which later tokens may read,
// and here also their outputs: a head that is not chosen costs as much as one that is.
//
// Letters: N tokens, D hidden size, H = S + R heads, S shared ones first, P head width.

#include <optional>

#include "layers/routed_layer.h"

namespace sluice {

/// `model.mixture_of_heads` of a recipe.
struct MixtureOfHeadsConfig final : RoutingConfig {
  enum class Gates : uint8_t { learned, query_norm };
  MixtureOfHeadsConfig();
  Gates gates = Gates::learned;
  int64_t num_shared_heads = 2;
  std::optional<int64_t> num_kv_heads;  // auto: all heads
  std::optional<int64_t> head_dim;      // auto: hidden_size / all heads
  std::optional<double> rope_theta = 10000.0;
  int64_t max_position_embeddings = 8192;
  std::optional<int64_t> window;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;

  [[nodiscard]] int64_t num_heads() const { return num_shared_heads + num_experts; }
  [[nodiscard]] int64_t kv_heads() const { return num_kv_heads.value_or(num_heads()); }
};

}  // namespace sluice
