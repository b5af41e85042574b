#include "train/transforms/transforming.h"

#include <algorithm>
#include <numeric>

#include "autograd/core/dtype.h"
#include "autograd/support/choices.h"

namespace sluice {
namespace {

#define SLUICE_TRANSFORM(name) &name##_transform,
constexpr const TransformEntry* kMethods[] = {
#include "train/transforms/transforming.def"
};
#undef SLUICE_TRANSFORM

}  // namespace

const Registry<TransformEntry>& transform_registry() {
  static const Registry<TransformEntry> registry("method", kMethods);
  return registry;
}

std::span<const Choice> transform_choices() {
  static const std::vector<Choice> choices = choices_of<TransformEntry>(kMethods);
  return choices;
}

void num_experts_field(FieldVisitor& v, int64_t& value) {
  v.integer({"num_experts", "experts that are left in every layer", true}, value, {.min = 1});
}

void check_num_experts(std::span<const ExpertLayer> layers, int64_t count) {
  for (const ExpertLayer& layer : layers) {
    SLUICE_CHECK(ConfigError, count >= layer.top_k && count <= layer.config->num_experts,
                 "method.num_experts: found {}, allowed {} (model.{}.top_k of the model) to {} "
                 "(model.{}.num_experts)",
                 count, layer.top_k, layer.section, layer.config->num_experts, layer.section);
  }
}

void check_swiglu(std::span<const ExpertLayer> layers, std::string_view method) {
  for (const ExpertLayer& layer : layers) {
    SLUICE_CHECK(ConfigError, layer.config->form.type == swiglu_form.name,
                 "method {}: model.{}.form is {}, allowed swiglu, whose neurons it takes apart",
                 method, layer.section, layer.config->form.type);
  }
}

void FewerExperts::check(std::span<const ExpertLayer> layers) const {
  check_num_experts(layers, num_experts_);
  if (!takes_apart_.empty()) check_swiglu(layers, takes_apart_);
}

ScoredLayer scored_layer(const TransformInput& input, size_t layer) {
  return {input.layers[layer].path, input.seed, input.statistics[layer]};
}

std::vector<std::vector<int32_t>> join_nearest_logits(const LayerStatistics& seen,
                                                      std::span<const int32_t> experts,
                                                      size_t leaders) {
  std::vector<std::vector<int32_t>> groups;
  std::vector<std::vector<double>> logits;
  for (const int32_t leader : experts.first(leaders)) {
    groups.push_back({leader});
    logits.push_back(seen.logits_of(leader));
  }
  for (const int32_t e : experts.subspan(leaders)) {
    const std::vector<double> own = seen.logits_of(e);
    size_t nearest = 0;
    for (size_t g = 1; g < leaders; ++g) {
      if (cosine(own, logits[g]) > cosine(own, logits[nearest])) nearest = g;
    }
    groups[nearest].push_back(e);
  }
  return groups;
}

ExpertChange merge_groups(const TransformInput& input, size_t layer,
                          std::vector<std::vector<int32_t>> groups, std::span<const double> shares,
                          bool aligned) {
  std::ranges::sort(groups, {}, [](const std::vector<int32_t>& group) { return group.front(); });
  const ExpertNeurons experts = read_neurons(input.state, input.layers[layer].path);
  ExpertChange change;
  change.weights = experts.like(std::ssize(groups), experts.width);
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<double> of_members;
    for (const int32_t e : groups[g]) of_members.push_back(shares[static_cast<size_t>(e)]);
    merge_experts(experts, groups[g], of_members, aligned,
                  change.weights->expert(static_cast<int64_t>(g)));
    change.kept.push_back(groups[g].front());
  }
  change.members = std::move(groups);
  return change;
}

std::vector<double> router_rows_of(const TransformInput& input, size_t layer) {
  const ExpertLayer& place = input.layers[layer];
  const auto found = input.state.find(fmt::format("model/{}.router.weight", place.path));
  SLUICE_CHECK(ConfigError,
               found != input.state.end() && found->second.dims.size() == 2 &&
                   found->second.dims[0] == place.config->num_experts,
               "method: router {} has no row per expert that could be averaged; allowed top_k and "
               "what derives from it",
               place.config->router.type);
  const StateArray& array = found->second;
  return dispatch_float(array.type == ElementType::f64 ? DType::f64 : DType::f32, [&]<class T>() {
    const auto values = array.values<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

std::vector<double> mean_router_rows(const TransformInput& input, size_t layer,
                                     const ExpertChange& change, std::span<const double> shares) {
  const std::vector<double> rows = router_rows_of(input, layer);
  const size_t width = rows.size() / shares.size();
  std::vector<double> result;
  for (const std::vector<int32_t>& members : change.members) {
    const auto share_of = [&](int32_t e) { return shares[static_cast<size_t>(e)]; };
    double sum = 0.0;
    for (const int32_t e : members) sum += share_of(e);
    std::vector<double> mean(width);
    for (const int32_t e : members) {
      const double share =
          sum > 0.0 ? share_of(e) / sum : 1.0 / static_cast<double>(members.size());
      for (size_t d = 0; d < width; ++d)
        mean[d] += share * rows[static_cast<size_t>(e) * width + d];
    }
    result.insert(result.end(), mean.begin(), mean.end());
  }
  return result;
}

}  // namespace sluice
