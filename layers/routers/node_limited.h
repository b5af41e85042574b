#pragma once
// Group- or node-limited routing (DeepSeek-V2 and V3): experts lie in n_group equal groups; a token
// may use the experts of its topk_group best groups only. Group score: the largest (shifted) score
// (V2), or the sum of the two largest (V3). Groups left out are masked with minus infinity (V2's
// published code masks with 0, which differs for negative scores).

#include <string>

#include "layers/routers/top_k.h"

namespace sluice {

struct NodeLimitedConfig final : TopKRouterConfig {
  int64_t n_group = 4;
  int64_t topk_group = 2;
  std::string group_score = "top2_sum";
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check_against(int64_t num_experts, int64_t top_k) const override;
  [[nodiscard]] bool restricts() const override { return topk_group < n_group; }
};

}  // namespace sluice
