// n_e / (n k): how often an expert is chosen, of the n k choices of the calibration text.

#include "train/transforms/pruning.h"

namespace sluice {

const CriterionEntry frequency_criterion = {
    .name = "frequency",
    .doc = "how often an expert is chosen",
    .make_config = make_no_settings,
    .score =
        [](const ScoredLayer& layer, const Configurable&) {
          std::vector<double> scores = layer.statistics.chosen;
          const auto choices =
              static_cast<double>(layer.statistics.tokens * layer.statistics.top_k);
          for (double& score : scores) score /= choices;
          return scores;
        },
};

}  // namespace sluice
