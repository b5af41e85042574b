// DeepSeek-V2 (2024, arXiv 2405.04434): softmax scores, weights times routed_scaling_factor; experts
// from the best groups where topk_method says so (group score: its best expert).

#include "train/interchange/deepseek_config.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

ModelJson read(const ConfigReader& config) {
  ModelJson model = read_deepseek(config);
  if (!model.contains("experts")) return {{"model", model}};
  config.require("scoring_func", "softmax", "the scores of this family");
  // Normalised weights are not scaled in this family's own code.
  const bool renormalises = config.boolean_or("norm_topk_prob", false);
  ModelJson router = softmax_router(renormalises);
  if (!renormalises) router["scale"] = config.number_or("routed_scaling_factor", 1.0);
  const std::string method = config.text_or("topk_method", "greedy");
  if (method == "group_limited_greedy") {
    router["type"] = "node_limited";
    router["n_group"] = config.integer("n_group");
    router["topk_group"] = config.integer("topk_group");
    router["group_score"] = "max";
  } else if (method != "greedy") {
    config.refuse("topk_method", "allowed greedy or group_limited_greedy");
  }
  model["experts"]["router"] = router;
  return {{"model", model}, {"balance", auxiliary_loss(config, "aux_loss_alpha", 0.001)}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const RouterFacts router = write_deepseek(recipe, config);
  SLUICE_CHECK(ConfigError, router.config->scores == "softmax",
               "model.experts.router.scores is {}, allowed softmax", router.config->scores);
  SLUICE_CHECK(ConfigError, !router.renormalises || router.config->scale == 1.0,
               "model.experts.router.scale is {} with renormalised weights, allowed 1",
               router.config->scale);
  SLUICE_CHECK(ConfigError, router.groups == nullptr || router.groups->group_score == "max",
               "model.experts.router.group_score is top2_sum, allowed max");
  config["scoring_func"] = "softmax";
  config["norm_topk_prob"] = router.renormalises;
  config["routed_scaling_factor"] = router.config->scale;
  config["topk_method"] = router.groups != nullptr ? "group_limited_greedy" : "greedy";
  config["n_group"] = router.groups != nullptr ? ModelJson(router.groups->n_group) : ModelJson();
  config["topk_group"] =
      router.groups != nullptr ? ModelJson(router.groups->topk_group) : ModelJson();
}

}  // namespace

const Family deepseek_v2_family = {
    .name = "deepseek_v2",
    .architecture = "DeepseekV2ForCausalLM",
    .names = {kDeepseekRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
