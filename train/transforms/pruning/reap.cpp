// Router-weighted activation pruning (Lasby et al. 2025, REAP, arXiv 2510.13999): the mean norm of what an
// expert adds, over the tokens that chose it.
//
//   s_e = (1 / n_e) sum over t that chose e of g_te ||E_e(x_t)||
//
// An expert that no token chose scores 0 (ours: the formula has no value there).

#include "train/transforms/pruning.h"

namespace sluice {

const CriterionEntry reap_criterion = {
    .name = "reap",
    .doc = "mean norm of an expert's weighted output over its tokens (REAP 2025, arXiv 2510.13999)",
    .make_config = make_no_settings,
    .score =
        [](const ScoredLayer& layer, const Configurable&) {
          std::vector<double> scores = layer.statistics.outputs;
          for (size_t e = 0; e < scores.size(); ++e) {
            if (layer.statistics.chosen[e] > 0.0) scores[e] /= layer.statistics.chosen[e];
          }
          return scores;
        },
    .needs_outputs = true,
};

}  // namespace sluice
