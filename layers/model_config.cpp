#include <algorithm>
#include <array>

#include "layers/adapters.h"
#include "layers/depth.h"
#include "layers/model.h"
#include "layers/pattern.h"
#include "layers/routed_layer.h"

namespace sluice {
namespace {

/// Calls body(entry) for every mixer and feed-forward.
template <class Body>
void for_each_entry(Body&& body) {
  for (const MixerEntry* entry : mixer_table()) body(*entry);
  for (const FeedForwardEntry* entry : feed_forward_table()) body(*entry);
}

/// Letters that stand for a mixer or feed-forward in every recipe.
std::string common_symbols() {
  std::string symbols;
  for_each_entry([&](const auto& entry) {
    if (entry.symbol != kNoSymbol) symbols += entry.symbol;
  });
  return symbols;
}

std::string all_symbols(const TaggedMap& variants) {
  std::string symbols = common_symbols();
  for (const auto& [symbol, variant] : variants) symbols += symbol;
  return symbols;
}

/// The symbols that `pattern` uses; every symbol when it cannot be read, so that one mistake is
/// reported once.
std::string used_symbols(const std::string& pattern, const TaggedMap& variants) {
  try {
    return expand_pattern(pattern, all_symbols(variants));
  } catch (const ConfigError&) {
    return all_symbols(variants);
  }
}

/// What may stand behind a letter of the recipe's own.
std::span<const Choice> variant_choices() {
  static const std::vector<Choice> choices = [] {
    std::vector<Choice> result;
    for_each_entry([&](const auto& entry) {
      result.push_back({entry.name, entry.doc, entry.make_config});
    });
    return result;
  }();
  return choices;
}

std::string_view pattern_doc() {
  static const std::string doc = [] {
    std::string names;
    for_each_entry([&](const auto& entry) {
      if (entry.symbol != kNoSymbol) names += fmt::format("{} {}, ", entry.symbol, entry.name);
    });
    return fmt::format(
        "one symbol per residual sublayer: {}or a letter of variants; groups repeat: (AE)x6",
        names);
  }();
  return doc;
}

std::string check_variants(const TaggedMap& variants) {
  const std::string common = common_symbols();
  for (const auto& [symbol, variant] : variants) {
    if (symbol.size() != 1 || std::isalpha(static_cast<unsigned char>(symbol[0])) == 0 ||
        symbol == "x") {
      return fmt::format("variants: found the name \"{}\", allowed one letter (not x)", symbol);
    }
    if (common.find(symbol) == std::string::npos) continue;
    return fmt::format(
        "variants: found the letter {}, which stands for a layer already; allowed any letter but "
        "{} and x",
        symbol, common);
  }
  return {};
}

/// The entry of this name in its table; null when it is none of it.
template <class Entry>
const Entry* entry_named(std::span<const Entry* const> table, std::string_view name) {
  const auto found = std::ranges::find(table, name, &Entry::name);
  return found == table.end() ? nullptr : *found;
}
template <class Entry>
const Entry* entry_of(std::span<const Entry* const> table, char symbol) {
  const auto found = std::ranges::find(table, symbol, &Entry::symbol);
  return found == table.end() ? nullptr : *found;
}

}  // namespace

const RoutingConfig* SublayerSpec::routing() const {
  return dynamic_cast<const RoutingConfig*>(config);
}

ModelConfig::ModelConfig() {
  for_each_entry([&](const auto& entry) {
    if (entry.symbol == kNoSymbol) return;
    sections_.emplace_back(entry.section, std::shared_ptr<Configurable>(entry.make_config()));
  });
}

void ModelConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kDTypes = {"f32", "f64"};
  v.text({"pattern", pattern_doc()}, pattern);
  v.tagged_map({"variants",
                "letters of this recipe's own for the pattern, each a layer with settings of its "
                "own: {W: {type: attention, window: 256}}"},
               variants, variant_choices());
  v.tagged_map(
      {"adapters",
       "low-rank experts beside linear maps of a frozen model, by names of this recipe's own: "
       "{heads: {type: mola, linears: [attention.q, attention.v], rank: 8}}"},
      adapters, adapter_choices());
  v.tagged(
      {"depth",
       "which tokens go through the groups in square brackets of the pattern, AF[AF]AF, and how "
       "often"},
      depth, depth_choices());
  v.optional_object(
      {"modalities",
       "kinds of tokens that layers with parameters for each tell apart; none: one kind"},
      modalities, [] { return std::make_shared<ModalitiesConfig>(); }, "none");
  v.optional_object(
      {"multi_token_prediction",
       "layers that predict the tokens after the next, in training (DeepSeek-V3 2024)"},
      multi_token_prediction, [] { return std::make_shared<MultiTokenConfig>(); }, "none");
  v.integer({"hidden_size", "width D of the residual stream"}, hidden_size, {.min = 1});
  v.optional_integer({"vocab_size", "rows of the embedding (auto: the tokenizer's)"}, vocab_size,
                     {.min = 2}, "auto");
  v.boolean({"tie_embeddings", "use the embedding as the output head"}, tie_embeddings);
  v.word({"dtype", "f32, or f64 for checks"}, dtype, kDTypes);
  v.optional_integer(
      {"learned_positions", "number of learned position embeddings (GPT-2); none: rotary only"},
      learned_positions, {.min = 1}, "none");
  v.number({"dropout",
            "probability of zeroing an element of the embedding and of each sublayer's output, in "
            "training"},
           dropout, {.min = 0.0, .max = 0.99});
  v.object({"norm", "normalisation before each sublayer and before the head"}, norm);
  v.object({"init", "initial values"}, init);
  std::string used = used_symbols(pattern, variants);
  if (const auto config = multi_token()) used += used_symbols(config->pattern, variants);
  for_each_entry([&](const auto& entry) {
    if (entry.symbol == kNoSymbol) return;
    if (all_sections || used.find(entry.symbol) != std::string::npos) {
      v.object({entry.section, entry.doc}, section(entry.section));
    }
  });
}

namespace {

/// Of groups whose passes share keys and values: "" or one sentence.
std::string check_sharing(const Tagged& depth, std::span<const SublayerSpec> sublayers) {
  const DepthEntry& entry = depth_registry().at(depth.type);
  if (entry.shares_key_values == nullptr || !entry.shares_key_values(*depth.config)) return {};
  std::vector<std::string_view> sharing;
  for (const MixerEntry* mixer : mixer_table()) {
    if (mixer->shares_key_values) sharing.push_back(mixer->name);
  }
  std::vector<size_t> attention_layers;  // of each group
  for (const SublayerSpec& sublayer : sublayers) {
    if (sublayer.group < 0) continue;
    attention_layers.resize(static_cast<size_t>(sublayer.group) + 1);
    if (sublayer.mixer != nullptr) ++attention_layers.back();
    if (sublayer.mixer != nullptr && !sublayer.mixer->shares_key_values) {
      return fmt::format("depth.key_values: found shared, but a group has {}; share those of {}",
                         sublayer.mixer->name, fmt::join(sharing, ", "));
    }
    const RoutingConfig* routing = sublayer.routing();
    if (routing != nullptr && routing->reads_attention()) {
      return fmt::format(
          "depth.key_values: found shared, allowed own with the router {} in a group: a later pass "
          "has no keys for its own tokens",
          routing->router.type);
    }
    constexpr size_t kMostLayers = SideTensors::kMaxSize / 2;  // keys and values of each
    if (attention_layers.back() > kMostLayers) {
      return fmt::format(
          "depth.key_values: found shared with a group of {} attention layers, allowed up to {}",
          attention_layers.back(), kMostLayers);
    }
  }
  return {};
}

}  // namespace

std::string ModelConfig::check() const {
  std::string problem = check_variants(variants);
  if (!problem.empty()) return problem;
  const auto check_layer = [&](const auto& entry, const std::string& key,
                               const Configurable& config) {
    if (!problem.empty() || entry.check == nullptr) return;
    problem = entry.check(*this, config);
    if (!problem.empty()) problem = fmt::format("{}.{}", key, problem);
  };
  try {
    const std::vector<SublayerSpec> all = sublayers();
    const bool has_groups =
        std::ranges::any_of(all, [](const SublayerSpec& sublayer) { return sublayer.group >= 0; });
    if (has_groups && depth.type.empty()) {
      return fmt::format(
          "depth: not given, but pattern \"{}\" has groups in square brackets; name a method "
          "({})",
          pattern, fmt::join(depth_registry().names(), ", "));
    }
    if (!has_groups && !depth.type.empty()) {
      return fmt::format(
          "depth: given, but pattern \"{}\" has no group in square brackets, such as AF[AF]AF",
          pattern);
    }
    if (has_groups) problem = check_sharing(depth, all);
    std::vector<SublayerSpec> everywhere = all;
    for (const SublayerSpec& sublayer : prediction_sublayers()) {
      if (sublayer.group >= 0) {
        return "multi_token_prediction.pattern: found a group in square brackets, allowed single "
               "sublayers";
      }
      everywhere.push_back(sublayer);
    }
    for (const SublayerSpec& sublayer : everywhere) {
      if (sublayer.by_modality() && modalities == nullptr) {
        return fmt::format(
            "modalities: not given, but {} ({}) has parameters for each; name them, as in {{names: "
            "[text, image], first_tokens: [0, 256]}}",
            sublayer.symbol, sublayer.key);
      }
      if (sublayer.mixer != nullptr) check_layer(*sublayer.mixer, sublayer.key, *sublayer.config);
      if (sublayer.feed_forward != nullptr) {
        check_layer(*sublayer.feed_forward, sublayer.key, *sublayer.config);
      }
    }
    if (problem.empty()) problem = check_adapters(*this);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return problem;
}

std::shared_ptr<Configurable> ModelConfig::find_section(std::string_view key) const {
  for (const auto& [name, config] : sections_) {
    if (name == key) return config;
  }
  throw ConfigError(fmt::format("model has no section \"{}\"", key));
}

Configurable& ModelConfig::section(std::string_view key) { return *find_section(key); }
const Configurable& ModelConfig::section(std::string_view key) const { return *find_section(key); }

std::string ModelConfig::expanded_pattern() const {
  return expand_pattern(pattern, all_symbols(variants));
}

std::shared_ptr<const MultiTokenConfig> ModelConfig::multi_token() const {
  return std::dynamic_pointer_cast<const MultiTokenConfig>(multi_token_prediction);
}

std::shared_ptr<const ModalitiesConfig> ModelConfig::told_modalities() const {
  return std::dynamic_pointer_cast<const ModalitiesConfig>(modalities);
}

std::vector<SublayerSpec> ModelConfig::sublayers() const {
  return sublayers_of(expanded_pattern());
}

std::vector<SublayerSpec> ModelConfig::prediction_sublayers() const {
  const auto config = multi_token();
  if (config == nullptr) return {};
  try {
    return sublayers_of(expand_pattern(config->pattern, all_symbols(variants)));
  } catch (const ConfigError& error) {
    throw ConfigError(fmt::format("multi_token_prediction.{}", error.what()));
  }
}

std::vector<SublayerSpec> ModelConfig::sublayers_of(const std::string& expanded) const {
  std::vector<SublayerSpec> result;
  int64_t groups = 0;
  bool in_group = false;
  for (const char symbol : expanded) {
    if (symbol == '[' || symbol == ']') {
      in_group = symbol == '[';
      groups += in_group ? 1 : 0;
      continue;
    }
    SublayerSpec spec{.symbol = symbol, .group = in_group ? groups - 1 : -1};
    const auto variant =
        std::ranges::find(variants, std::string(1, symbol), &TaggedMap::value_type::first);
    if (variant != variants.end()) {
      const Tagged& layer = variant->second;
      spec.mixer = entry_named(mixer_table(), layer.type);
      spec.feed_forward = entry_named(feed_forward_table(), layer.type);
      spec.key = fmt::format("variants.{}", symbol);
      spec.config = layer.config.get();
    } else {
      spec.mixer = entry_of(mixer_table(), symbol);
      spec.feed_forward = entry_of(feed_forward_table(), symbol);
      spec.key = spec.mixer != nullptr ? spec.mixer->section : spec.feed_forward->section;
      spec.config = &section(spec.key);
    }
    result.push_back(std::move(spec));
  }
  return result;
}

std::vector<const RoutingConfig*> ModelConfig::routed_layers() const {
  std::vector<const RoutingConfig*> result;
  const std::vector<SublayerSpec> all = sublayers();
  for (size_t i = 0; i < all.size();) {
    const int64_t group = all[i].group;
    int64_t visits = 1;
    if (group >= 0) {
      const auto* routing = dynamic_cast<const RoutingConfig*>(depth.config.get());
      if (routing != nullptr) result.push_back(routing);
      visits = depth_registry().at(depth.type).visits(*depth.config);
    }
    // The routed layers of the group, or of this sublayer, once for every visit.
    std::vector<const RoutingConfig*> inside;
    do {
      add_routed_layers(all[i], static_cast<int64_t>(i), inside);
      ++i;
    } while (group >= 0 && i < all.size() && all[i].group == group);
    for (int64_t visit = 0; visit < visits; ++visit) {
      result.insert(result.end(), inside.begin(), inside.end());
    }
  }
  const auto predictions = multi_token();
  for (int64_t j = 0; predictions != nullptr && j < predictions->num_depths; ++j) {
    for (const SublayerSpec& sublayer : prediction_sublayers()) {
      add_routed_layers(sublayer, std::ssize(all), result);
    }
  }
  return result;
}

void ModelConfig::add_routed_layers(const SublayerSpec& sublayer, int64_t index,
                                    std::vector<const RoutingConfig*>& layers) const {
  if (const RoutingConfig* routing = sublayer.routing()) {
    layers.insert(layers.end(), static_cast<size_t>(routing->num_routed_layers(*this)), routing);
  }
  for (const AdapterPlace& place : adapters_of(sublayer, index)) {
    if (place.routing != nullptr) layers.push_back(place.routing);
  }
}

std::vector<AdapterPlace> ModelConfig::adapters_of(const SublayerSpec& sublayer,
                                                   int64_t index) const {
  if (adapters.empty()) return {};
  const int64_t count = std::ssize(sublayers());
  return adapter_places(adapters, sublayer, std::min(index, count - 1), count);
}

}  // namespace sluice
