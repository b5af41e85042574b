#include "tests/support/method_runs.h"

#include <fmt/format.h>

#include <map>

#include "balance/make.h"
#include "layers/router.h"
#include "layers/sublayer.h"

namespace sluice::testing {
namespace {

std::string changes_of(const std::string& router, int64_t top_k, const std::string& balance) {
  return fmt::format(
      "model: {{experts: {{top_k: {}, router: {}}}}}\nbalance: {}\n"
      "train: {{micro_batch: 64 tokens}}\n",
      top_k, router, balance);
}

/// Settings of mixers whose defaults are too large for the tiny model, as its section.
std::string small_section(const std::string& mixer) {
  static const std::map<std::string, std::string> sections = {
      {"mamba1", "mamba1: {state_size: 4}"},
      {"mamba2", "mamba2: {head_dim: 8, state_size: 4, chunk_size: 8}"},
  };
  const auto at = sections.find(mixer);
  return at == sections.end() ? "" : ", " + at->second;
}

}  // namespace

std::vector<MethodInARun> methods_in_runs() {
  std::vector<MethodInARun> result;
  for (const Choice& choice : balance_choices()) {
    const std::string name(choice.name);
    const std::string router = name == "load_loss"          ? "{type: noisy_top_k}"
                               : name == "null_expert_loss" ? "{type: null_experts}"
                                                            : "{type: top_k}";
    const std::string options = name == "device_aux_loss" ? ", groups: 2" : "";
    result.push_back(
        {"balance_" + name, changes_of(router, 2, fmt::format("{{type: {}{}}}", name, options))});
  }
  for (const Choice& choice : router_choices()) {
    const std::string name(choice.name);
    const auto config = choice.make_config();
    const auto& router = dynamic_cast<const RouterConfig&>(*config);
    const bool takes_two = router.check_against(4, 2).empty();
    const std::string balance = router.is_fixed() ? "{type: none}" : "{type: loss_free_bias}";
    // As many domains as the made-up text has, and no more experts.
    const std::string router_yaml = name == "mixer" ? "{type: mixer, domains: 2}, num_experts: 2"
                                                    : fmt::format("{{type: {}}}", name);
    result.push_back({"router_" + name, changes_of(router_yaml, takes_two ? 2 : 1, balance)});
  }
  result.push_back({"balance_loss_free_bias_multiplicative",
                    changes_of("{type: null_experts}", 2,
                               "{type: loss_free_bias, form: multiplicative, recentre: true}")});
  for (const MixerEntry* mixer : mixer_table()) {
    if (mixer->symbol == kNoSymbol) continue;
    const std::string name(mixer->name);
    result.push_back({"mixer_" + name, fmt::format("model: {{pattern: \"{}EAE\"{}}}\n"
                                                   "balance: {{type: loss_free_bias}}\n"
                                                   "train: {{micro_batch: 64 tokens}}\n",
                                                   mixer->symbol, small_section(name))});
  }
  result.push_back(
      {"router_thor_average", changes_of("{type: thor, evaluation: average}", 1, "{type: none}")});
  return result;
}

}  // namespace sluice::testing
