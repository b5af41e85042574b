// Mamba-2 (Dao and Gu 2024, arXiv 2405.21060): one mixer per layer, no feed-forward.
//
// The convolution's weight is [channels, 1, taps], and one matrix holds the rows of ours in the order
// gate, convolved inputs, step sizes. The gated norm takes the channels of a group together, as the
// authors' code and transformers 5 do.

#include "layers/mixers/mamba2.h"
#include "layers/pattern.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/interchange/decoder_config.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = std::to_array<NameRow>({
    {"embedding.weight", "backbone.embeddings.weight"},
    {"embedding.weight", "backbone.embedding.weight"},  // the authors' own files
    {"final_norm.weight", "backbone.norm_f.weight"},
    {"head", "lm_head.weight"},
    {"layers.{i}.norm.weight", "backbone.layers.{i}.norm.weight"},
    {"layers.{i}.mamba2.w_z", "backbone.layers.{i}.mixer.in_proj.weight"},
    {"layers.{i}.mamba2.w_xbc", "backbone.layers.{i}.mixer.in_proj.weight"},
    {"layers.{i}.mamba2.w_dt", "backbone.layers.{i}.mixer.in_proj.weight"},
    {"layers.{i}.mamba2.conv.weight", "backbone.layers.{i}.mixer.conv1d.weight", Form::convolution},
    {"layers.{i}.mamba2.conv.bias", "backbone.layers.{i}.mixer.conv1d.bias"},
    {"layers.{i}.mamba2.dt_bias", "backbone.layers.{i}.mixer.dt_bias"},
    {"layers.{i}.mamba2.A_log", "backbone.layers.{i}.mixer.A_log"},
    {"layers.{i}.mamba2.D", "backbone.layers.{i}.mixer.D"},
    {"layers.{i}.mamba2.norm", "backbone.layers.{i}.mixer.norm.weight"},
    {"layers.{i}.mamba2.w_out", "backbone.layers.{i}.mixer.out_proj.weight"},
});

/// Of ours, where it changes speed alone.
constexpr int64_t kMaxChunk = 1024;

ModelJson read(const ConfigReader& config) {
  require_silu(config);
  config.require("use_bias", false, "projections have no biases");
  config.require("rms_norm", true, "the output is normalised");
  const int64_t layers = config.integer("num_hidden_layers");
  if (layers > kMaxSublayers) {
    config.refuse("num_hidden_layers", fmt::format("allowed at most {}", kMaxSublayers));
  }
  const int64_t width = config.integer("hidden_size");
  const double expand = config.number_or("expand", 2.0);
  const int64_t head_dim = config.integer_or("head_dim", 64);
  const double inner = expand * static_cast<double>(width);
  const int64_t heads = config.integer_or("num_heads", static_cast<int64_t>(inner) / head_dim);
  if (static_cast<double>(heads * head_dim) != inner) {
    config.refuse("num_heads", "allowed expand times hidden_size over head_dim");
  }
  ModelJson mamba = {{"expand", expand},
                     {"head_dim", head_dim},
                     {"num_groups", config.integer_or("n_groups", 8)},
                     {"state_size", config.integer_or("state_size", 128)},
                     {"conv_kernel", config.integer_or("conv_kernel", 4)},
                     {"chunk_size", std::min(config.integer_or("chunk_size", 256), kMaxChunk)},
                     {"conv_bias", config.boolean_or("use_conv_bias", true)}};
  const std::vector<double> limit = config.numbers_or_none("time_step_limit");
  const bool is_limited =
      limit.size() == 2 && (limit[0] > 0.0 || limit[1] < std::numeric_limits<double>::max());
  if (is_limited && !std::isfinite(limit[1])) {
    config.refuse("time_step_limit", "allowed a finite upper limit, or none at all");
  }
  if (is_limited) mamba["time_step_limit"] = limit;
  return {{"model",
           {{"pattern", fmt::format("Mx{}", layers)},
            {"hidden_size", width},
            {"vocab_size", config.integer("vocab_size", 2)},
            {"tie_embeddings", config.boolean_or("tie_word_embeddings", false)},
            {"norm", {{"type", "rms_norm"}, {"eps", config.number_or("layer_norm_epsilon", 1e-5)}}},
            {"init", {{"std", config.number_or("initializer_range", 0.1)}}},
            {"mamba2", mamba}}}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const auto require = [](bool is_so, std::string_view what) {
    SLUICE_CHECK(ConfigError, is_so, "{}", what);
  };
  const ModelConfig& model = recipe.model;
  require(model.dtype == "f32", "model.dtype is f64, allowed f32");
  require(model.norm.type == "rms_norm", "model.norm.type is layer_norm, allowed rms_norm");
  require(!model.learned_positions, "model.learned_positions is given, allowed none");
  require(model.depth.type.empty(), "model.depth is given, allowed none");
  const std::vector<SublayerSpec> sublayers = model.sublayers();
  for (const SublayerSpec& sublayer : sublayers) {
    require(sublayer.mixer != nullptr && sublayer.mixer->name == "mamba2" &&
                sublayer.config == sublayers.front().config,
            "model.pattern has other layers than one kind of mamba2, allowed none");
  }
  const auto& mamba = dynamic_cast<const Mamba2Config&>(*sublayers.front().config);
  require(!mamba.norm_before_gate, "model.mamba2.norm_before_gate is true, allowed false");
  require(!mamba.norm_group_size, "model.mamba2.norm_group_size is given, allowed auto");
  require(!mamba.ssm_size, "model.mamba2.ssm_size is given, allowed auto");
  require(!mamba.D_per_channel, "model.mamba2.D_per_channel is true, allowed false");
  require(mamba.expand == std::floor(mamba.expand),
          "model.mamba2.expand is no whole number, which is allowed alone");
  const auto inner = std::llround(mamba.expand * static_cast<double>(model.hidden_size));
  config["hidden_size"] = model.hidden_size;
  config["num_hidden_layers"] = sublayers.size();
  config["expand"] = static_cast<int64_t>(mamba.expand);
  config["num_heads"] = inner / mamba.head_dim;
  config["head_dim"] = mamba.head_dim;
  config["n_groups"] = mamba.num_groups;
  config["state_size"] = mamba.state_size;
  config["conv_kernel"] = mamba.conv_kernel;
  config["use_conv_bias"] = mamba.conv_bias;
  config["use_bias"] = false;
  config["rms_norm"] = true;
  config["hidden_act"] = "silu";
  config["chunk_size"] = mamba.chunk_size;
  config["layer_norm_epsilon"] = model.norm.eps;
  config["initializer_range"] = model.init.std;
  config["tie_word_embeddings"] = model.tie_embeddings;
  if (!mamba.time_step_limit.empty()) config["time_step_limit"] = mamba.time_step_limit;
}

}  // namespace

const Family mamba2_family = {
    .name = "mamba2",
    .architecture = "Mamba2ForCausalLM",
    .names = {kRows, "backbone.", {}},
    .read = read,
    .write = write,
};

}  // namespace sluice
