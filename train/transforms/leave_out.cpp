#include "train/transforms/leave_out.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "autograd/support/error.h"
#include "layers/ffns/moe.h"
#include "layers/routers/top_k.h"
#include "train/build.h"
#include "train/pruning_schedule.h"
#include "train/spawn_experts.h"
#include "train/transforms/gather_slices.h"

namespace sluice {
namespace {

/// A layer of experts: where it stands, and its settings.
struct ExpertLayer {
  std::string prefix;  // "model/layers.1."
  std::string key;     // of the settings, below `model`
  const ExpertsConfig* config;
};

std::vector<ExpertLayer> expert_layers(const ModelConfig& model, const std::string& name) {
  std::vector<ExpertLayer> layers;
  const std::vector<SublayerSpec> specs = model.sublayers();
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto* config = dynamic_cast<const ExpertsConfig*>(specs[i].config);
    if (config != nullptr) {
      layers.push_back({fmt::format("model/layers.{}.", i), specs[i].key, config});
    }
  }
  SLUICE_CHECK(ConfigError, !layers.empty(), "{}: has no layer of experts (pattern {})", name,
               model.pattern);
  return layers;
}

/// The settings of a layer, to be changed.
ExpertsConfig& settings_of(ModelConfig& model, const std::string& key) {
  constexpr std::string_view kVariants = "variants.";
  if (!key.starts_with(kVariants)) return dynamic_cast<ExpertsConfig&>(model.section(key));
  const auto variant = std::ranges::find(model.variants, key.substr(kVariants.size()),
                                         [](const auto& entry) { return entry.first; });
  return dynamic_cast<ExpertsConfig&>(*variant->second.config);
}

/// Takes the experts out of a section of the recipe.
void shrink(ExpertsConfig& config, const std::string& name, const std::vector<int64_t>& experts) {
  const int64_t left = config.num_experts - std::ssize(experts);
  for (const int64_t expert : experts) {
    SLUICE_CHECK(ConfigError, expert < config.num_experts,
                 "{}: expert {} cannot be left out; a layer has experts 0 to {}", name, expert,
                 config.num_experts - 1);
  }
  SLUICE_CHECK(ConfigError, left >= 1, "{}: all {} experts of a layer would be left out", name,
               config.num_experts);
  const int64_t top_k = config.largest_top_k();
  config.num_experts = left;
  if (top_k <= left) return;
  config.top_k = static_cast<double>(left);
  // Over one expert a renormalised softmax is 1, as the softmax itself is; the former is refused, since
  // it could not be trained.
  const auto router = dynamic_cast<const TopKRouterConfig*>(config.router.config.get());
  if (left == 1 && router != nullptr && router->scores == "softmax") {
    dynamic_cast<TopKRouterConfig&>(*config.router.config).weights = "as_is";
  }
}

}  // namespace

std::vector<int64_t> parse_expert_list(const std::string& text) {
  std::vector<int64_t> experts;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto number = [&](int64_t& value) {
    const auto [rest, error] = std::from_chars(at, end, value);
    const bool is_number = error == std::errc() && value >= 0;
    at = rest;
    return is_number;
  };
  bool valid = !text.empty();
  while (valid) {
    int64_t first = 0;
    valid = number(first);
    int64_t last = first;
    if (valid && at != end && *at == '-') {
      ++at;
      valid = number(last) && last >= first && last - first < 65536;
    }
    for (int64_t e = first; valid && e <= last; ++e) experts.push_back(e);
    if (at == end) break;
    valid = valid && *at == ',';
    ++at;
  }
  SLUICE_CHECK(ConfigError, valid, "found \"{}\", allowed numbers of experts, as 2,5 or 1-3,6", text);
  std::ranges::sort(experts);
  experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  return experts;
}

Checkpoint leave_out_experts(const Checkpoint& checkpoint, const std::string& name,
                             const std::vector<int64_t>& experts) {
  const Recipe before = checkpoint_recipe(checkpoint, name);
  check_experts_spawned(before, checkpoint.meta.step, name);
  Recipe after = checkpoint_recipe(checkpoint, name);
  for (const ExpertLayer& layer : expert_layers(before.model, name)) {
    SLUICE_CHECK(ConfigError, layer.config->pool_layers == 1,
                 "{}: experts of a pool that layers share cannot be left out", name);
  }
  // Sections are shared by the layers of one letter: each once.
  std::set<std::string> keys;
  for (const ExpertLayer& layer : expert_layers(before.model, name)) keys.insert(layer.key);
  for (const std::string& key : keys) shrink(settings_of(after.model, key), name, experts);

  Checkpoint result{checkpoint.meta, {}};
  result.meta.recipe = resolved_text(after);
  const auto tokenizer =
      deserialize_tokenizer(checkpoint.meta.tokenizer_kind, checkpoint.meta.tokenizer);
  // Read again, so that what no run could be made of is refused by the recipe's own rules.
  const Recipe checked = with_context([&] { return fmt::format("{} without experts", name); },
                                      [&] { return parse_recipe(result.meta.recipe, "its recipe"); });
  Pool pool;
  const auto model = build_model(checked, pool, tokenizer->vocab_size());
  const auto routing = build_routing(checked);
  SaveVisitor save;
  visit_model(*model, *routing, save);
  result.state = save.take();

  std::vector<const RoutingConfig*> routed = before.model.routed_layers();
  for (auto& [path, array] : result.state) {
    const auto found = checkpoint.state.find(path);
    SLUICE_CHECK(CheckpointError, found != checkpoint.state.end(), "{}: /{} is missing", name, path);
    int64_t count = 0;
    for (const ExpertLayer& layer : expert_layers(before.model, name)) {
      if (path.starts_with(layer.prefix)) count = layer.config->num_experts;
    }
    for (size_t i = 0; i < routed.size(); ++i) {
      if (path.starts_with(fmt::format("balance/{}/", i))) count = routed[i]->num_experts;
    }
    std::vector<int64_t> kept;
    for (int64_t e = 0; e < count; ++e) {
      if (std::ranges::find(experts, e) == experts.end()) kept.push_back(e);
    }
    const StateArray& from = found->second;
    const bool fits = can_resize_experts(from.dims, array.dims, count, std::ssize(kept));
    SLUICE_CHECK(CheckpointError, fits || path.starts_with("balance/"),
                 "{}: /{} has no axis of experts to leave some out", name, path);
    if (fits) array = resize_experts(from, array.dims, count, kept);
  }
  return result;
}

}  // namespace sluice
