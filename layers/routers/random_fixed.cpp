// SMoE-Dropout: a random router that is never trained (Chen et al. 2023, "Sparse MoE as the New
// Dropout", arXiv 2303.01610).
//
//   z = x W^T, W random and frozen; top-k; w = softmax over the chosen logits
//
// The number of experts grows during training: give `top_k` a schedule, as
// `{type: linear, from: 8, to: 16}`; it is rounded half to even, as published. At inference any k
// from 1 to E may be set. W is saved with the weights; x still gets a gradient through w.

#include "layers/routers/top_k.h"

namespace sluice {
namespace {

struct RandomFixedConfig final : TopKRouterConfig {
  RandomFixedConfig() { weights = "softmax_after"; }
  /// One expert is fine here: there is no router to keep from its gradient.
  [[nodiscard]] std::string check_against(int64_t /*num_experts*/,
                                          int64_t /*top_k*/) const override {
    return {};
  }
};

class RandomFixedRouter final : public TopKRouter {
 public:
  RandomFixedRouter(const Builder& b, const RouterSetup& setup, const RandomFixedConfig& config)
      : TopKRouter(b, setup, config) {
    weight_.trainable = false;
  }
};

}  // namespace

const RouterEntry random_fixed_router = {
    .name = "random_fixed",
    .doc = "a random router that is never trained, for growing k (Chen et al. 2023, SMoE-Dropout)",
    .make_config = make_router_config<RandomFixedConfig>,
    .make = make_router<RandomFixedRouter, RandomFixedConfig>,
};

}  // namespace sluice
