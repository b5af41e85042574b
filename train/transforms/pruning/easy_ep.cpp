// EASY-EP (Dong et al. 2025, "Domain-Specific Pruning of Large Mixture-of-Experts Models with Few-shot
// Demonstrations"): output norms of an expert, each token counting as much as its routed experts turn the
// residual stream.
//
//   s_e = sum over t that chose e of max(0, 1 - cos(h_t, h_t + r_t)) g_te ||E_e(x_t)||

#include "train/transforms/pruning.h"

namespace sluice {

const CriterionEntry easy_ep_criterion = {
    .name = "easy_ep",
    .doc =
        "output norms weighed by how far each token's residual stream is turned (EASY-EP 2025, "
        "arXiv 2504.06792)",
    .make_config = make_no_settings,
    .score = [](const ScoredLayer& layer, const Configurable&) { return layer.statistics.moved; },
    .needs_outputs = true,
};

}  // namespace sluice
