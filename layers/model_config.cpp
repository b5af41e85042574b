#include <array>

#include "layers/model.h"
#include "layers/pattern.h"

namespace sluice {
namespace {

std::string all_symbols() {
  std::string symbols;
  for (const MixerEntry* entry : mixer_table()) symbols += entry->symbol;
  for (const FeedForwardEntry* entry : feed_forward_table()) symbols += entry->symbol;
  return symbols;
}

/// Calls body(entry) for every mixer and feed-forward.
template <class Body>
void for_each_entry(Body&& body) {
  for (const MixerEntry* entry : mixer_table()) body(*entry);
  for (const FeedForwardEntry* entry : feed_forward_table()) body(*entry);
}

/// The symbols that `pattern` uses; every symbol when it cannot be read, so that one mistake is
/// reported once.
std::string used_symbols(const std::string& pattern) {
  try {
    return expand_pattern(pattern, all_symbols());
  } catch (const ConfigError&) {
    return all_symbols();
  }
}

}  // namespace

ModelConfig::ModelConfig() {
  for_each_entry([&](const auto& entry) {
    sections_.emplace_back(entry.section, std::shared_ptr<Configurable>(entry.make_config()));
  });
}

void ModelConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kDTypes = {"f32", "f64"};
  v.text({"pattern",
          "one symbol per residual sublayer: A attention, F dense feed-forward, E experts; groups "
          "repeat: (AE)x6"},
         pattern);
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
  const std::string used = used_symbols(pattern);
  for_each_entry([&](const auto& entry) {
    if (all_sections || used.find(entry.symbol) != std::string::npos) {
      v.object({entry.section, entry.doc}, section(entry.section));
    }
  });
}

std::string ModelConfig::check() const {
  std::string problem;
  try {
    (void)expand_pattern(pattern, all_symbols());
  } catch (const ConfigError& error) {
    return error.what();
  }
  const std::string used = used_symbols(pattern);
  for_each_entry([&](const auto& entry) {
    if (problem.empty() && entry.check != nullptr && used.find(entry.symbol) != std::string::npos) {
      problem = entry.check(*this, section(entry.section));
    }
  });
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

std::string ModelConfig::expanded_pattern() const { return expand_pattern(pattern, all_symbols()); }

}  // namespace sluice
