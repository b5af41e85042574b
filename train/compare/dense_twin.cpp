#include "train/compare/dense_twin.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "autograd/support/error.h"
#include "layers/sublayer.h"
#include "train/build.h"
#include "train/parameter_count.h"
#include "train/yaml_reader.h"

namespace sluice {
namespace {

constexpr char kDenseSymbol = 'F';
constexpr std::string_view kWidthKey = "model.feed_forward.intermediate_size";

YamlNode scalar(std::string text, const Location& where) {
  YamlNode node;
  node.kind = YamlNode::Kind::scalar;
  node.where = where;
  node.text = std::move(text);
  return node;
}

void erase(YamlNode& map, std::string_view key) {
  std::erase_if(map.entries, [&](const YamlEntry& entry) { return entry.key == key; });
}

/// Keys of a dense model's training that would have nothing to do: routes, and weights of the other
/// model. Two passes differ where there is dropout only.
std::vector<std::string_view> keys_of_experts(const Recipe& moe) {
  std::vector<std::string_view> keys{"trace", "replay", "init_from", "unfreeze"};
  if (moe.model.dropout == 0.0) keys.emplace_back("consistency");
  return keys;
}

/// Its routed feed-forwards become dense ones; balancing goes where nothing else routes.
void make_dense(YamlDocument& document, const Recipe& moe, const Location& where) {
  std::string pattern;
  bool routes = false;  // still, in its mixers
  YamlEntry* model = document.root.find("model");
  const std::vector<SublayerSpec> sublayers = moe.model.sublayers();
  for (const char symbol : moe.model.expanded_pattern()) {
    const auto found = std::ranges::find(sublayers, symbol, &SublayerSpec::symbol);
    if (found == sublayers.end()) {
      pattern += symbol;  // a bracket
      continue;
    }
    const SublayerSpec& sublayer = *found;
    const bool is_sparse = sublayer.feed_forward != nullptr && sublayer.routing() != nullptr;
    pattern += is_sparse ? kDenseSymbol : sublayer.symbol;
    routes = routes || (!is_sparse && sublayer.routing() != nullptr);
    if (is_sparse && model != nullptr) erase(model->value, sublayer.key);
  }
  if (model != nullptr) erase(model->value, "adapters");
  if (!routes) erase(document.root, "balance");
  if (YamlEntry* train = document.root.find("train")) {
    for (const std::string_view key : keys_of_experts(moe)) erase(train->value, key);
  }
  apply_setting(document, "model.pattern", scalar(pattern, where), where);
}

Recipe recipe_with(const YamlDocument& document, int64_t width, const Location& where) {
  YamlDocument sized = document;
  apply_setting(sized, kWidthKey, scalar(std::to_string(width), where), where);
  Recipe recipe;
  read_or_throw(recipe, sized);
  return recipe;
}

int64_t parameters_with(const YamlDocument& document, int64_t width, int64_t vocab_size,
                        const Location& where) {
  const Recipe recipe = recipe_with(document, width, where);
  Pool pool(Pool::Mode::shapes_only);
  return count_parameters(recipe, *build_model(recipe, pool, vocab_size)).total;
}

/// Takes out of train.freeze the patterns that match nothing in the dense model, those of routers and
/// experts, and returns them.
std::vector<std::string> drop_freezes_of_experts(YamlDocument& document, int64_t vocab_size,
                                                 const Location& where) {
  Recipe dense = recipe_with(document, 1, where);
  const std::vector<std::string> patterns = std::exchange(dense.train.freeze, {});
  std::vector<std::string> dropped;
  if (patterns.empty()) return dropped;
  Pool pool(Pool::Mode::shapes_only);
  const auto model = build_model(dense, pool, vocab_size);
  YamlNode kept;
  kept.kind = YamlNode::Kind::list;
  kept.where = where;
  for (const std::string& pattern : patterns) {
    if (parameters_matching(pattern, *model).empty()) {
      dropped.push_back(pattern);
    } else {
      kept.items.push_back(scalar(pattern, where));
    }
  }
  apply_setting(document, "train.freeze", kept, where);
  return dropped;
}

}  // namespace

std::string DenseTwin::describe() const {
  const double difference =
      100.0 * static_cast<double>(parameters - active) / static_cast<double>(active);
  return fmt::format(
      "dense feed-forwards of width {}: {} parameters for the {} that a token uses ({:+.3f} %){}",
      width, parameters, active, difference,
      dropped_freezes.empty() ? ""
                              : fmt::format("; nothing in it matches train.freeze {}",
                                            fmt::join(dropped_freezes, ", ")));
}

DenseTwin derive_dense_twin(YamlDocument document, const Recipe& moe, int64_t active,
                            int64_t vocab_size) {
  const Location where{std::make_shared<SourceText>(SourceText{"its dense twin", {}, 0}), 0, 0};
  make_dense(document, moe, where);
  std::vector<std::string> dropped = drop_freezes_of_experts(document, vocab_size, where);
  const int64_t least = parameters_with(document, 1, vocab_size, where);
  const int64_t slope = parameters_with(document, 2, vocab_size, where) - least;
  const auto width = static_cast<int64_t>(
      std::llround(static_cast<double>(active - (least - slope)) / static_cast<double>(slope)));
  SLUICE_CHECK(ConfigError, width >= 1,
               "its dense twin: a token uses {} parameters, without expert layers the model has {} "
               "already; set dense_twin: false",
               active, least - slope);
  apply_setting(document, kWidthKey, scalar(std::to_string(width), where), where);
  return {.document = std::move(document),
          .width = width,
          .parameters = least + (width - 1) * slope,
          .active = active,
          .dropped_freezes = std::move(dropped)};
}

}  // namespace sluice
