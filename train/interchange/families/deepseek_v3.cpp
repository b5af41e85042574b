// DeepSeek-V3 (2024, arXiv 2412.19437): sigmoid scores, a bias per expert that shifts the choice alone
// (here the state of loss_free_bias), experts from the best groups (group score: its two best).
//
// The layers of multi-token prediction are not read: their files keep copies of embedding and head
// there, and other programs leave them out too.

#include "train/interchange/deepseek_config.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

ModelJson read(const ConfigReader& config) {
  ModelJson model = read_deepseek(config);
  if (!model.contains("experts")) return {{"model", model}};
  config.require("scoring_func", "sigmoid", "the scores of this family");
  config.require("topk_method", "noaux_tc", "the choice of this family");
  const bool renormalises = config.boolean_or("norm_topk_prob", true);
  if (renormalises && model["experts"]["top_k"] == 1) {
    config.refuse("norm_topk_prob",
                  "allowed false with one expert per token (other programs do not agree on what "
                  "true means)");
  }
  model["experts"]["router"] = {{"type", "node_limited"},
                                {"scores", "sigmoid"},
                                {"weights", renormalises ? "renormalise" : "as_is"},
                                {"scale", config.number_or("routed_scaling_factor", 2.5)},
                                {"n_group", config.integer_or("n_group", 8)},
                                {"topk_group", config.integer_or("topk_group", 4)},
                                {"group_score", "top2_sum"}};
  return {{"model", model}, {"balance", {{"type", "loss_free_bias"}}}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const RouterFacts router = write_deepseek(recipe, config);
  SLUICE_CHECK(ConfigError, router.config->scores == "sigmoid",
               "model.experts.router.scores is {}, allowed sigmoid", router.config->scores);
  SLUICE_CHECK(ConfigError, router.groups == nullptr || router.groups->group_score == "top2_sum",
               "model.experts.router.group_score is max, allowed top2_sum");
  config["scoring_func"] = "sigmoid";
  config["topk_method"] = "noaux_tc";
  // The weight of a single expert is not divided by itself here.
  config["norm_topk_prob"] = router.renormalises && router.top_k > 1;
  config["routed_scaling_factor"] = router.config->scale;
  // One group of all experts restricts nothing.
  const int64_t groups = router.groups != nullptr ? router.groups->n_group : 1;
  const auto experts = config["n_routed_experts"].get<int64_t>();
  SLUICE_CHECK(ConfigError, experts >= 2 * groups,
               "model.experts.num_experts is {}, allowed two or more in each of the {} groups",
               experts, groups);
  config["n_group"] = groups;
  config["topk_group"] = router.groups != nullptr ? router.groups->topk_group : 1;
  config["num_nextn_predict_layers"] = 0;
}

}  // namespace

const Family deepseek_v3_family = {
    .name = "deepseek_v3",
    .architecture = "DeepseekV3ForCausalLM",
    .names = {kDeepseekRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
    .selection_bias = "model.layers.{i}.mlp.gate.e_score_correction_bias",
    .has_layers_of_training = true,
};

}  // namespace sluice
