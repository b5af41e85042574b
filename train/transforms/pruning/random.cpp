// Any experts: what the other criteria are measured against.

#include "autograd/support/rng.h"
#include "train/transforms/pruning.h"

namespace sluice {
namespace {

// Initial values are drawn with layer 0 of the purpose, the order of upcycled neurons with 19.
constexpr uint32_t kPruningStream = 23;

}  // namespace

const CriterionEntry random_criterion = {
    .name = "random",
    .doc = "any experts, by the seed: the baseline",
    .make_config = make_no_settings,
    .score =
        [](const ScoredLayer& layer, const Configurable&) {
          const RandomKey key{layer.seed, RandomPurpose::init, kPruningStream};
          const uint64_t sample = hash_name(layer.path.data(), layer.path.size());
          std::vector<double> scores;
          for (int64_t e = 0; e < layer.statistics.experts; ++e) {
            scores.push_back(uniform(key, sample, static_cast<uint64_t>(e)));
          }
          return scores;
        },
};

}  // namespace sluice
