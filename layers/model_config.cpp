#include <algorithm>
#include <array>

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
  const std::string used = used_symbols(pattern, variants);
  for_each_entry([&](const auto& entry) {
    if (all_sections || used.find(entry.symbol) != std::string::npos) {
      v.object({entry.section, entry.doc}, section(entry.section));
    }
  });
}

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
    for (const SublayerSpec& sublayer : sublayers()) {
      if (sublayer.mixer != nullptr) check_layer(*sublayer.mixer, sublayer.key, *sublayer.config);
      if (sublayer.feed_forward != nullptr) {
        check_layer(*sublayer.feed_forward, sublayer.key, *sublayer.config);
      }
    }
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

std::vector<SublayerSpec> ModelConfig::sublayers() const {
  std::vector<SublayerSpec> result;
  for (const char symbol : expanded_pattern()) {
    SublayerSpec spec{.symbol = symbol};
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
  for (const SublayerSpec& sublayer : sublayers()) {
    const RoutingConfig* routing = sublayer.routing();
    if (routing == nullptr) continue;
    result.insert(result.end(), static_cast<size_t>(routing->num_routed_layers()), routing);
  }
  return result;
}

}  // namespace sluice
