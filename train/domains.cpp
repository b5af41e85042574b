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

}  // namespace

std::vector<std::string> training_domains(const DataConfig& config) {
  std::vector<std::string> names;
  for (const auto& source : config.sources) {
    std::string name = as_source(source).resolved_domain();
    if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
  }
  return names;
}

bool reads_domains(const Recipe& recipe) { return domains_of_router(recipe) > 0; }

std::string check_domains(const Recipe& recipe) {
  if (!reads_domains(recipe)) return {};
  const std::vector<std::string> known = training_domains(recipe.data);
  if (std::ssize(known) != domains_of_router(recipe)) {
    return fmt::format(
        "model.experts.router.domains: found {}, allowed {}, the domains of data.sources ({})",
        domains_of_router(recipe), known.size(), fmt::join(known, ", "));
  }
  for (const auto& source : recipe.data.held_out.sources) {
    const std::string name = as_source(source).resolved_domain();
    if (std::ranges::find(known, name) != known.end()) continue;
    return fmt::format(
        "data.held_out.sources: found domain {}, allowed {}: the router knows the domains of "
        "data.sources only",
        name, fmt::join(known, ", "));
  }
  return {};
}

int32_t domain_number(const Recipe& recipe, std::string_view name, std::string_view flag) {
  if (name.empty()) return 0;
  SLUICE_CHECK(ConfigError, reads_domains(recipe),
               "{}: found {}, but the model's router goes by no domains; leave it out", flag, name);
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
