#include "train/transforms/pruning.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "autograd/support/choices.h"

namespace sluice {
namespace {

#define SLUICE_CRITERION(name) &name##_criterion,
constexpr const CriterionEntry* kCriteria[] = {
#include "train/transforms/pruning.def"
};
#undef SLUICE_CRITERION

}  // namespace

const Registry<CriterionEntry>& criterion_registry() {
  static const Registry<CriterionEntry> registry("criterion", kCriteria);
  return registry;
}

std::span<const Choice> criterion_choices() {
  static const std::vector<Choice> choices = choices_of<CriterionEntry>(kCriteria);
  return choices;
}

Tagged criterion_of(const CriterionEntry& entry) {
  return {std::string(entry.name), std::shared_ptr<Configurable>(entry.make_config())};
}

std::vector<double> score_experts(const Tagged& criterion, const ScoredLayer& layer) {
  return criterion_registry().at(criterion.type).score(layer, *criterion.config);
}

std::vector<int32_t> ranked_experts(std::span<const double> scores) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](int32_t e) {
    const double score = scores[static_cast<size_t>(e)];
    return std::isnan(score) ? -std::numeric_limits<double>::infinity() : score;
  });
  return order;
}

std::vector<int32_t> best_experts(std::span<const double> scores, int64_t count) {
  std::vector<int32_t> best = ranked_experts(scores);
  best.resize(static_cast<size_t>(count));
  std::ranges::sort(best);
  return best;
}

}  // namespace sluice
