#include "train/interchange/export.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "balance/make.h"
#include "train/build.h"
#include "train/field_snapshot.h"
#include "train/format.h"
#include "train/interchange/family.h"
#include "train/interchange/gguf_model.h"
#include "train/interchange/model_names.h"
#include "train/interchange/safetensors.h"
#include "train/interchange/tokenizer_files.h"
#include "train/output_file.h"
#include "train/pruning_schedule.h"
#include "train/spawn_experts.h"
#include "train/transforms/merge_adapters.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kMultiToken = "multi_token.";

std::string field_of(const Tagged& method, std::string_view key) {
  for (const FlatField& field : flatten(*method.config)) {
    if (field.key == key) return field.value;
  }
  return {};
}

/// The recipe's method that shifts or replaces the router's choice, also in evaluation; null without.
const Tagged* selecting_method(const Recipe& recipe) {
  const std::vector<const RoutingConfig*> layers = recipe.model.routed_layers();
  if (layers.empty()) return nullptr;
  for (const Tagged& method : recipe.balance) {
    const BalancerSetup setup{.layer = 0,
                              .experts = layers.front()->num_experts,
                              .top_k = layers.front()->largest_top_k(),
                              .layers = std::ssize(layers),
                              .seed = static_cast<uint64_t>(recipe.seed),
                              .initial_logit_std = initial_logit_std(recipe.model)};
    if (make_balancer(std::span(&method, 1), setup)->traits().selects) return &method;
  }
  return nullptr;
}

/// Throws ConfigError when the choice of experts would not be the same elsewhere.
void check_selection(const Recipe& recipe, const Family& family, bool drop_shift) {
  const Tagged* method = selecting_method(recipe);
  if (method == nullptr || drop_shift) return;
  const bool is_kept = !family.selection_bias.empty() && method->type == "loss_free_bias" &&
                       field_of(*method, "form") == "additive";
  SLUICE_CHECK(ConfigError, is_kept,
               "balance: {} shifts the choice of experts, in evaluation too, which this family has "
               "not; --drop-selection-shift exports the router alone",
               method->type);
}

ordered_json config_json(const Family& family, const Recipe& recipe, int64_t vocab_size,
                         const Tokenizer& tokenizer, StoredType type) {
  ordered_json config = {{"architectures", ordered_json::array({family.architecture})},
                         {"model_type", family.name},
                         {"vocab_size", vocab_size}};
  family.write(recipe, config);
  config["attention_dropout"] = 0.0;
  config["use_cache"] = true;
  const auto id = [](std::optional<int32_t> token) {
    return token ? ordered_json(*token) : ordered_json();
  };
  config["bos_token_id"] = id(tokenizer.bos_id());
  config["eos_token_id"] = id(tokenizer.eos_id());
  config["pad_token_id"] = id(tokenizer.pad_id());
  config["torch_dtype"] = type == StoredType::f32   ? "float32"
                          : type == StoredType::f16 ? "float16"
                                                    : "bfloat16";
  return config;
}

/// Where generation begins and ends, as generation_config.json says it.
ordered_json generation_json(const Tokenizer& tokenizer) {
  ordered_json config = {{"_from_model_config", true}};
  const auto add = [&](const char* key, std::optional<int32_t> token) {
    if (token) config[key] = *token;
  };
  add("bos_token_id", tokenizer.bos_id());
  add("eos_token_id", tokenizer.eos_id());
  add("pad_token_id", tokenizer.pad_id());
  return config;
}

/// The family asked for, or the first that can hold the model.
const Family& choose_family(const Recipe& recipe, const ExportOptions& options) {
  const auto try_family = [&](const Family& family) {
    const bool has_place = options.format == ExportFormat::safetensors || family.name == "llama" ||
                           family.name == "mixtral";
    SLUICE_CHECK(ConfigError, has_place, "no GGUF file is written of it");
    ordered_json ignored;
    family.write(recipe, ignored);
    check_selection(recipe, family, options.drop_selection_shift);
  };
  if (!options.family.empty()) {
    const Family& family = family_registry().at(options.family);
    with_context([&] { return fmt::format("--family {}", family.name); },
                 [&] { try_family(family); });
    return family;
  }
  std::vector<std::string> reasons;
  for (const Family* family : family_registry().entries()) {
    try {
      try_family(*family);
      return *family;
    } catch (const ConfigError& error) {
      reasons.push_back(fmt::format("{}: {}", family->name, error.what()));
    }
  }
  throw ConfigError(
      fmt::format("no family of models can hold this one ({})", fmt::join(reasons, "; ")));
}

/// How the rows of heads that rotate go out.
Rotation rotation_of(const ModelConfig& model, ExportFormat format) {
  const RotatingHeads heads = rotating_heads(model);
  const bool theirs_interleaved = format == ExportFormat::gguf;
  if (heads.is_interleaved == theirs_interleaved) return {HeadOrder::same, heads.head_dim};
  return {theirs_interleaved ? HeadOrder::theirs_interleaved : HeadOrder::ours_interleaved,
          heads.head_dim};
}

class Exporter {
 public:
  Exporter(const Checkpoint& checkpoint, const std::string& source, const Family& family,
           const Recipe& recipe, int64_t tokenizer_vocab_size, ExportFormat format)
      : checkpoint_(checkpoint),
        source_(source),
        family_(family),
        recipe_(recipe),
        format_(format),
        rotation_(rotation_of(recipe.model, format)) {
    for (ParameterShape& parameter : parameter_shapes(recipe, tokenizer_vocab_size)) {
      if (parameter.name.starts_with(kMultiToken)) {
        ++left_out_;
      } else {
        (void)values_of(parameter);
        parameters_.push_back(std::move(parameter));
      }
    }
    const NameMap& names = format == ExportFormat::gguf ? gguf_names() : family.names;
    pieces_ = pieces_of(names, parameters_, [](const std::string&) { return true; });
  }

  [[nodiscard]] std::vector<TensorToWrite> tensors(StoredType type) const {
    std::map<std::string, std::vector<const Piece*>> pieces_of_tensor;
    for (const Piece& piece : pieces_) pieces_of_tensor[piece.tensor].push_back(&piece);
    std::vector<TensorToWrite> result;
    for (const auto& [name, pieces] : pieces_of_tensor) {
      const std::vector<int64_t>& dims = pieces.front()->tensor_dims;
      const StoredType stored = format_ == ExportFormat::gguf ? gguf_type(name, dims, type) : type;
      const auto fill = [this, parts = pieces](std::span<float> values) {
        for (const Piece* piece : parts) {
          write_piece(*piece, rotation_, values_of(parameters_[piece->parameter]), values);
        }
      };
      result.push_back({name, stored, dims, fill});
    }
    add_selection_biases(result);
    return result;
  }

  [[nodiscard]] int64_t vocab_size() const {
    return std::ranges::find(parameters_, std::string_view("embedding.weight"),
                             &ParameterShape::name)
        ->dims[0];
  }
  [[nodiscard]] int64_t left_out() const { return left_out_; }

 private:
  [[nodiscard]] std::span<const float> values_of(const ParameterShape& parameter) const {
    const auto found = checkpoint_.state.find("model/" + parameter.name);
    SLUICE_CHECK(CheckpointError, found != checkpoint_.state.end(),
                 "{}: holds no /model/{}, which its recipe asks for", source_, parameter.name);
    SLUICE_CHECK(CheckpointError, found->second.dims == parameter.dims,
                 "{}: /model/{} is [{}], its recipe asks for [{}]", source_, parameter.name,
                 fmt::join(found->second.dims, ", "), fmt::join(parameter.dims, ", "));
    return found->second.values<float>();
  }

  void add_selection_biases(std::vector<TensorToWrite>& tensors) const {
    if (family_.selection_bias.empty()) return;
    const std::vector<int64_t> layers = routed_decoder_layers(recipe_.model);
    for (size_t routed = 0; routed < layers.size(); ++routed) {
      const auto state = checkpoint_.state.find(selection_bias_path(routed));
      const int64_t experts = recipe_.model.routed_layers()[routed]->num_experts;
      std::vector<float> bias(static_cast<size_t>(experts), 0.0f);
      if (state != checkpoint_.state.end()) {
        const auto wide = state->second.values<double>();
        SLUICE_CHECK(CheckpointError, wide.size() == bias.size(),
                     "{}: /{} has {} biases, its recipe has {} experts", source_, state->first,
                     wide.size(), experts);
        std::ranges::transform(wide, bias.begin(),
                               [](double value) { return static_cast<float>(value); });
      }
      tensors.push_back(
          {selection_bias_name(family_, layers[routed]),
           StoredType::f32,
           {experts},
           [bias](std::span<float> values) { std::ranges::copy(bias, values.begin()); }});
    }
  }

  const Checkpoint& checkpoint_;
  const std::string& source_;
  const Family& family_;
  const Recipe& recipe_;
  ExportFormat format_;
  Rotation rotation_;
  std::vector<ParameterShape> parameters_;
  std::vector<Piece> pieces_;
  int64_t left_out_ = 0;
};

/// No other program has our adapters: the matrices that they stand beside take them in.
ExportedModel export_merged(const Checkpoint& checkpoint, const std::string& source,
                            const ExportOptions& options, FileSystem& files) {
  const MergedModel merged = with_context([] { return "merge-adapters"; },
                                          [&] { return merge_adapters(checkpoint, source); });
  ExportedModel result = export_model(merged.checkpoint, source, options, files);
  result.notes.insert(result.notes.begin(),
                      fmt::format("merged: {} into {}", counted(merged.adapters, "adapter"),
                                  counted(merged.matrices, "weight")));
  return result;
}

}  // namespace

ExportedModel export_model(const Checkpoint& checkpoint, const std::string& source,
                           const ExportOptions& options, FileSystem& files) {
  check_new_file("--out", options.output);
  const Recipe recipe = checkpoint_recipe(checkpoint, source);
  check_experts_spawned(recipe, checkpoint.meta.step, source);
  if (!recipe.model.adapters.empty()) return export_merged(checkpoint, source, options, files);
  const auto tokenizer =
      deserialize_tokenizer(checkpoint.meta.tokenizer_kind, checkpoint.meta.tokenizer);
  const Family& family = choose_family(recipe, options);
  const Exporter exporter(checkpoint, source, family, recipe, tokenizer->vocab_size(),
                          options.format);
  const ordered_json config =
      config_json(family, recipe, exporter.vocab_size(), *tokenizer, options.type);
  std::vector<TensorToWrite> tensors = exporter.tensors(options.type);

  ExportedModel result{.family = std::string(family.name), .tensors = std::ssize(tensors)};
  if (exporter.left_out() > 0) {
    result.notes.push_back("left out: the layers of multi-token prediction, used in training only");
  }
  if (options.drop_selection_shift && selecting_method(recipe) != nullptr) {
    result.notes.push_back(
        fmt::format("left out: the shift of {}; experts are chosen by the router "
                    "alone",
                    selecting_method(recipe)->type));
  }
  if (options.format == ExportFormat::gguf) {
    write_gguf(files, options.output, gguf_keys(config, checkpoint.meta, options.type), tensors);
  } else {
    PendingFolder folder(files, options.output);
    write_safetensors(files, folder.path(), std::move(tensors), options.max_file_bytes);
    write_tokenizer(files, folder.path(), checkpoint.meta);
    if (family.name == "qwen2" && !cuts_as_qwen2(checkpoint.meta)) {
      result.notes.emplace_back(
          "AutoTokenizer of transformers 5 cuts text as Qwen2 does for every qwen2 model; load "
          "this one's tokenizer by PreTrainedTokenizerFast");
    }
    const auto write_json = [&](const char* name, const ordered_json& content) {
      write_file_atomically(files, folder.path() / name, bytes_of(content.dump(2) + "\n"),
                            raise_as<CheckpointError>);
    };
    write_json("generation_config.json", generation_json(*tokenizer));
    write_json("config.json", config);
    folder.publish();
  }
  return result;
}

}  // namespace sluice
