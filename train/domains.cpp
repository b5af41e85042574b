#include "train/domains.h"

#include <algorithm>

#include "layers/routed_layer.h"

namespace sluice {
namespace {

/// Domains that the router tells apart; 0 for none.
int64_t domains_of_router(const Recipe& recipe) {
  for (const RoutingConfig* layer : recipe.model.routed_layers()) {
    const auto* router = dynamic_cast<const RouterConfig*>(layer->router.config.get());
    if (router != nullptr && router->num_domains() > 0) return router->num_domains();
  }
  return 0;
}

bool names_modality(const DataConfig& data) {
  return std::ranges::any_of(
      data.sources, [](const auto& source) { return !as_source(source).modality.empty(); });
}

std::string check_modality(const ModalitiesConfig* known, const SourceConfig& source,
                           std::string_view key) {
  const std::string& name = source.modality;
  if (known == nullptr) {
    return name.empty()
               ? ""
               : fmt::format("{}: found modality {}, but model.modalities is not given", key, name);
  }
  if (!name.empty() && std::ranges::find(known->names, name) == known->names.end()) {
    return fmt::format("{}: found modality {}, allowed {} (model.modalities.names)", key, name,
                       fmt::join(known->names, ", "));
  }
  if (name.empty() && known->first_tokens.empty()) {
    return fmt::format(
        "{}: source {} names no modality, and no token id tells it; give its modality ({}) or "
        "model.modalities.first_tokens",
        key, source.resolved_domain(), fmt::join(known->names, ", "));
  }
  return {};
}

/// Every source's modality is known, and the same as that of its domain.
std::string check_modalities(const Recipe& recipe) {
  const auto known = recipe.model.told_modalities();
  for (const auto& [sources, key] :
       {std::pair(&recipe.data.sources, "data.sources"),
        std::pair(&recipe.data.held_out.sources, "data.held_out.sources")}) {
    for (const auto& item : *sources) {
      const SourceConfig& source = as_source(item);
      const bool is_first = sources == &recipe.data.sources;
      // Held-out text takes the modality of its domain.
      if (is_first || !source.modality.empty()) {
        std::string problem = check_modality(known.get(), source, key);
        if (!problem.empty()) return problem;
      }
      for (const auto& other : recipe.data.sources) {
        if (as_source(other).resolved_domain() != source.resolved_domain()) continue;
        const bool agree =
            as_source(other).modality == source.modality || (!is_first && source.modality.empty());
        if (agree) continue;
        return fmt::format(
            "{}: found domain {} with the modalities \"{}\" and \"{}\", allowed one for each "
            "domain; give the sources domains of their own",
            key, source.resolved_domain(), as_source(other).modality, source.modality);
      }
    }
  }
  return {};
}

}  // namespace

std::vector<std::string> training_domains(const DataConfig& config) {
  std::vector<std::string> names;
  for (const auto& source : config.sources) {
    std::string name = as_source(source).resolved_domain();
    if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
  }
  return names;
}

std::vector<int32_t> domain_modalities(const Recipe& recipe) {
  const auto known = recipe.model.told_modalities();
  if (known == nullptr || !names_modality(recipe.data)) return {};
  std::vector<int32_t> result;
  for (const std::string& domain : training_domains(recipe.data)) {
    const auto of_domain = std::ranges::find_if(recipe.data.sources, [&](const auto& source) {
      return as_source(source).resolved_domain() == domain;
    });
    const std::string& name = as_source(*of_domain).modality;
    const auto number = std::ranges::find(known->names, name) - known->names.begin();
    result.push_back(name.empty() ? kByTokenId : static_cast<int32_t>(number));
  }
  return result;
}

bool reads_domains(const Recipe& recipe) {
  return domains_of_router(recipe) > 0 || names_modality(recipe.data);
}

std::string check_domains(const Recipe& recipe) {
  if (std::string problem = check_modalities(recipe); !problem.empty()) return problem;
  if (!reads_domains(recipe)) return {};
  const std::vector<std::string> known = training_domains(recipe.data);
  const int64_t of_router = domains_of_router(recipe);
  if (of_router > 0 && std::ssize(known) != of_router) {
    return fmt::format(
        "model.experts.router.domains: found {}, allowed {}, the domains of data.sources ({})",
        of_router, known.size(), fmt::join(known, ", "));
  }
  for (const auto& source : recipe.data.held_out.sources) {
    const std::string name = as_source(source).resolved_domain();
    if (std::ranges::find(known, name) != known.end()) continue;
    return fmt::format(
        "data.held_out.sources: found domain {}, allowed {}: the model knows the domains of "
        "data.sources only",
        name, fmt::join(known, ", "));
  }
  return {};
}

int32_t domain_number(const Recipe& recipe, std::string_view name, std::string_view flag) {
  if (name.empty()) return 0;
  SLUICE_CHECK(ConfigError, reads_domains(recipe),
               "{}: found {}, but the model goes by no domains; leave it out", flag, name);
  const std::vector<std::string> known = training_domains(recipe.data);
  const auto found = std::ranges::find(known, name);
  SLUICE_CHECK(ConfigError, found != known.end(),
               "{}: found domain {}, allowed {} (what the model was trained on)", flag, name,
               fmt::join(known, ", "));
  return static_cast<int32_t>(found - known.begin());
}

void number_domains(const Recipe& recipe, std::string_view flag, Dataset& data) {
  for (auto* corpora : {&data.train, &data.held_out}) {
    for (Corpus& corpus : *corpora) {
      corpus.domain = domain_number(recipe, data.domains[static_cast<size_t>(corpus.domain)], flag);
    }
  }
  data.domains = training_domains(recipe.data);
}

}  // namespace sluice
