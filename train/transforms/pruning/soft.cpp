// The mean combine weight of an expert over all tokens, 0 where it is not chosen.

#include "train/transforms/pruning.h"

namespace sluice {

const CriterionEntry soft_criterion = {
    .name = "soft",
    .doc = "the mean combine weight of an expert over all tokens",
    .make_config = make_no_settings,
    .score =
        [](const ScoredLayer& layer, const Configurable&) {
          std::vector<double> scores = layer.statistics.weights;
          for (double& score : scores) score /= static_cast<double>(layer.statistics.tokens);
          return scores;
        },
};

}  // namespace sluice
