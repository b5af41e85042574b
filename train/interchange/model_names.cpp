#include "train/interchange/model_names.h"

#include "layers/attention_heads.h"
#include "train/build.h"

namespace sluice {

std::vector<ParameterShape> parameter_shapes(const Recipe& recipe, int64_t tokenizer_vocab_size) {
  Pool pool(Pool::Mode::shapes_only);
  const auto model = build_model(recipe, pool, tokenizer_vocab_size);
  std::vector<ParameterShape> result;
  for (const Parameter* parameter : model->parameters()) {
    const auto dims = parameter->value.shape().dims();
    result.push_back({parameter->name, {dims.begin(), dims.end()}});
  }
  return result;
}

RotatingHeads rotating_heads(const ModelConfig& model) {
  for (const SublayerSpec& sublayer : model.sublayers()) {
    const auto* heads = dynamic_cast<const AttentionHeadsConfig*>(sublayer.config);
    if (heads == nullptr || !heads->rope_theta) continue;
    return {heads->head_dim.value_or(model.hidden_size / heads->num_heads),
            heads->rope_layout == "interleaved"};
  }
  return {};
}

std::vector<int64_t> routed_decoder_layers(const ModelConfig& model) {
  std::vector<int64_t> layers;
  const std::vector<SublayerSpec> sublayers = model.sublayers();
  for (size_t i = 0; i < sublayers.size(); ++i) {
    if (sublayers[i].routing() != nullptr) layers.push_back(static_cast<int64_t>(i / 2));
  }
  return layers;
}

std::string selection_bias_path(size_t routed_layer) {
  return fmt::format("balance/{}/loss_free_bias/bias", routed_layer);
}

std::string selection_bias_name(const Family& family, int64_t decoder_layer) {
  std::string name(family.selection_bias);
  const size_t at = name.find("{i}");
  return name.replace(at, 3, fmt::format("{}", decoder_layer));
}

}  // namespace sluice
