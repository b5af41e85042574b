#include "tests/support/method_runs.h"

#include <fmt/format.h>

#include "balance/make.h"
#include "layers/adapters.h"
#include "layers/depth.h"
#include "layers/experts.h"
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

std::string in_model(std::string_view model) {
  return fmt::format("model: {}\ntrain: {{micro_batch: 64 tokens}}\n", model);
}

/// Every mixer and feed-forward.
std::vector<std::string> layer_types() {
  std::vector<std::string> result;
  for (const MixerEntry* entry : mixer_table()) result.emplace_back(entry->name);
  for (const FeedForwardEntry* entry : feed_forward_table()) result.emplace_back(entry->name);
  return result;
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
  // The tokens of documents are 0 to 23; those of tests of evaluation 97 to 120.
  for (const std::string& name : layer_types()) {
    result.push_back(
        {"layer_" + name,
         in_model(fmt::format("{{pattern: AEZE, hidden_size: 64, modalities: {{names: [a, b, c], "
                              "first_tokens: [0, 12, 105]}}, variants: {{Z: {{type: {}}}}}}}",
                              name))});
  }
  for (const Choice& choice : depth_choices()) {
    result.push_back(
        {fmt::format("depth_{}", choice.name),
         in_model(fmt::format("{{pattern: \"AE[AE]E\", depth: {{type: {}}}}}", choice.name))});
  }
  for (const Choice& choice : experts_choices()) {
    result.push_back({fmt::format("experts_{}", choice.name),
                      in_model(fmt::format("{{experts: {{form: {{type: {}}}}}}}", choice.name))});
  }
  for (const Choice& choice : adapter_choices()) {
    result.push_back({fmt::format("adapter_{}", choice.name),
                      in_model(fmt::format("{{adapters: {{a: {{type: {}, linears: [attention.q, "
                                           "attention.o], b_std: 0.1}}}}}}",
                                           choice.name))});
  }
  for (const std::string type : {"recursions_by_expert_choice", "recursions_by_token_choice"}) {
    result.push_back(
        {"depth_" + type + "_of_shared_key_values",
         in_model(fmt::format("{{pattern: \"AE[AE]E\", depth: {{type: {}, key_values: shared}}}}",
                              type))});
  }
  result.push_back(
      {"layer_mixture_of_heads_by_query_norm",
       in_model("{pattern: AEHE, hidden_size: 64, mixture_of_heads: {gates: query_norm}}")});
  result.push_back({"experts_pool", in_model("{experts: {pool_layers: all}}")});
  result.push_back({"experts_residual",
                    in_model("{experts: {shared: {intermediate_size: 8, combine: learned}}}")});
  result.push_back({"multi_token_prediction",
                    in_model("{multi_token_prediction: {num_depths: 2, pattern: AE}}")});
  result.push_back({"balance_loss_free_bias_multiplicative",
                    changes_of("{type: null_experts}", 2,
                               "{type: loss_free_bias, form: multiplicative, recentre: true}")});
  result.push_back(
      {"router_thor_average", changes_of("{type: thor, evaluation: average}", 1, "{type: none}")});
  result.push_back(
      {"layer_workspace_short_chunks",
       in_model("{pattern: AEKE, workspace: {num_slots: 4, chunk_size: 4, num_heads: 2, "
                "output_gate_bias: 0}}")});
  result.push_back({"router_short_chunks",
                    changes_of("{type: chunk_top_k, chunk_size: 4}", 2, "{type: loss_free_bias}")});
  return result;
}

}  // namespace sluice::testing
