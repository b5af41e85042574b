// DeepSeek-V2 (2024, arXiv 2405.04434): softmax scores, weights times routed_scaling_factor; experts
// from the best groups where topk_method says so (group score: its best expert).
//
// Weights that norm_topk_prob divides by their sum are nowhere here: the authors' code does so instead
// of scaling them, transformers scales them as they are.

#include "train/interchange/deepseek_config.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

ModelJson read(const ConfigReader& config) {
  ModelJson model = read_deepseek(config);
  if (!model.contains("experts")) return {{"model", model}};
  config.require("scoring_func", "softmax", "the scores of this family");
  config.require("norm_topk_prob", false, "other programs do not agree on what true means");
  ModelJson router = softmax_router(false);
  router["scale"] = config.number_or("routed_scaling_factor", 1.0);
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
  SLUICE_CHECK(ConfigError, !router.renormalises,
               "model.experts.router.weights is {}, allowed as_is", router.config->weights);
  require_width_of_heads(recipe.model, config["num_attention_heads"].get<int64_t>());
  SLUICE_CHECK(ConfigError, router.groups == nullptr || router.groups->group_score == "max",
               "model.experts.router.group_score is top2_sum, allowed max");
  config["scoring_func"] = "softmax";
  config["norm_topk_prob"] = false;
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
