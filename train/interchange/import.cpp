#include "train/interchange/import.h"

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "data/json_text.h"
#include "train/build.h"
#include "train/checkpoint/image.h"
#include "train/checkpoint/store.h"
#include "train/interchange/family.h"
#include "train/interchange/gguf_model.h"
#include "train/interchange/model_names.h"
#include "train/interchange/safetensors.h"
#include "train/interchange/tokenizer_files.h"
#include "train/output_file.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr int64_t kSequenceLength = 512;

/// JSON is YAML, but a recipe's words (rms_norm, none) stand without quotes, which make them texts.
std::string as_yaml(const ordered_json& value) {
  const auto is_word = [](std::string_view text) {
    constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789_";
    return !text.empty() && text.find_first_not_of(kLetters) == std::string_view::npos;
  };
  const std::string json_text = value.dump(1, ' ', false, json::error_handler_t::replace);
  std::string result;
  for (size_t at = 0; at < json_text.size();) {
    size_t end = at + 1;
    if (json_text[at] == '"') {
      while (json_text[end] != '"') end += json_text[end] == '\\' ? 2 : 1;
      ++end;
    }
    const std::string_view piece = std::string_view(json_text).substr(at, end - at);
    const bool is_quoted = piece.size() >= 2;
    result += is_quoted && is_word(piece.substr(1, piece.size() - 2))
                  ? piece.substr(1, piece.size() - 2)
                  : piece;
    at = end;
  }
  return result;
}

/// The recipe that a checkpoint carries. Its text is a place to be filled: training needs some.
Recipe recipe_of(const Family& family, const ConfigReader& config,
                 const FoundTokenizer& tokenizer) {
  ordered_json recipe = family.read(config);
  recipe["data"] = {{"tokenizer", ordered_json::parse(tokenizer.choice)},
                    {"sequence_length", kSequenceLength},
                    {"sources", ordered_json::array()}};
  recipe["data"]["sources"].push_back({{"path", fs::absolute("text-to-train-on.txt").string()}});
  for (const char* section : {"attention", "latent_attention"}) {
    if (!recipe["model"].contains(section)) continue;
    const auto longest = recipe["model"][section].find("max_position_embeddings");
    if (longest == recipe["model"][section].end()) continue;
    recipe["data"]["sequence_length"] = std::min(kSequenceLength, longest->get<int64_t>());
  }
  if (recipe["model"].contains("learned_positions")) {
    recipe["data"]["sequence_length"] =
        std::min(kSequenceLength, recipe["model"]["learned_positions"].get<int64_t>());
  }
  try {
    return parse_recipe(as_yaml(recipe), "its recipe");
  } catch (const ConfigError& error) {
    throw CheckpointError(fmt::format("{}: makes no model: {}", config.name(), error.what()));
  }
}

/// What a folder or a file holds.
struct ForeignModel {
  std::string name;  // of what describes it, for messages
  json config;
  TensorFiles tensors;
  FoundTokenizer tokenizer;
  const NameMap* names = nullptr;  // null: those of the family
  HeadOrder heads = HeadOrder::same;
};

class Importer {
 public:
  Importer(const Family& family, const ForeignModel& model, const Recipe& recipe,
           int64_t tokenizer_vocab_size)
      : family_(family),
        names_(model.names != nullptr ? *model.names : family.names),
        described_by_(fs::path(model.name).filename().string()),
        recipe_(recipe),
        tensors_(model.tensors),
        rotation_{model.heads, rotating_heads(recipe.model).head_dim},
        parameters_(parameter_shapes(recipe, tokenizer_vocab_size)) {
    const auto has = [&](const std::string& name) { return find(name) != nullptr; };
    pieces_ = pieces_of(names_, parameters_, has);
    for (const Piece& piece : pieces_) check(piece);
    read_balance();
    check_unread();
  }

  [[nodiscard]] std::vector<StateArrayShape> arrays() const {
    std::vector<StateArrayShape> result;
    for (const ParameterShape& parameter : parameters_) {
      result.push_back({"model/" + parameter.name, ElementType::f32, parameter.dims});
    }
    for (const auto& [path, array] : balance_) result.push_back({path, array.type, array.dims});
    return result;
  }

  /// Fills arrays()[i]; called in order.
  void write(size_t i, std::span<std::byte> elements) {
    if (i >= parameters_.size()) {
      const auto array =
          std::next(balance_.begin(), static_cast<std::ptrdiff_t>(i - parameters_.size()));
      std::memcpy(elements.data(), array->second.bytes.data(), elements.size());
      return;
    }
    const std::span<float> values(reinterpret_cast<float*>(elements.data()),
                                  elements.size() / sizeof(float));
    for (; next_ < pieces_.size() && pieces_[next_].parameter <= i; ++next_) {
      if (pieces_[next_].parameter < i) continue;  // of an empty array, which nobody asked for
      const StoredTensor& tensor = *find(pieces_[next_].tensor);
      read_piece(
          pieces_[next_], rotation_,
          [&](int64_t first, std::span<float> out) { tensors_.read(tensor, first, out); }, values);
    }
  }

  [[nodiscard]] int64_t num_parameters() const {
    int64_t total = 0;
    for (const ParameterShape& parameter : parameters_) total += *checked_numel(parameter.dims);
    return total;
  }
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 private:
  [[nodiscard]] const StoredTensor* find(std::string_view name) const {
    const StoredTensor* found = tensors_.find(name);
    if (found == nullptr && name.starts_with(names_.prefix)) {
      found = tensors_.find(name.substr(names_.prefix.size()));
    }
    return found;
  }

  const StoredTensor& require(const std::string& name, std::span<const int64_t> dims) {
    const StoredTensor* tensor = find(name);
    SLUICE_CHECK(CheckpointError, tensor != nullptr, "{}: holds no tensor {}, which {} asks for",
                 tensors_.file(0).name(), name, described_by_);
    SLUICE_CHECK(CheckpointError, std::ranges::equal(tensor->dims, dims),
                 "{} is [{}], {} asks for [{}]", tensors_.where(*tensor),
                 fmt::join(tensor->dims, ", "), described_by_, fmt::join(dims, ", "));
    read_.insert(tensor->name);
    return *tensor;
  }
  void check(const Piece& piece) { (void)require(piece.tensor, piece.tensor_dims); }

  /// The state of the recipe's balancers at the start of a run, with the family's biases.
  void read_balance() {
    SaveVisitor save;
    const auto routing = build_routing(recipe_);
    {
      const StateScope scope(save, "balance");
      routing->visit_state(save);
    }
    balance_ = save.take();
    if (family_.selection_bias.empty()) return;
    const std::vector<int64_t> layers = routed_decoder_layers(recipe_.model);
    for (size_t routed = 0; routed < layers.size(); ++routed) {
      StateArray& bias = balance_.at(selection_bias_path(routed));
      const StoredTensor& tensor = require(selection_bias_name(family_, layers[routed]), bias.dims);
      std::vector<float> values(static_cast<size_t>(tensor.numel()));
      tensors_.read(tensor, 0, values);
      const std::vector<double> wide(values.begin(), values.end());
      std::memcpy(bias.bytes.data(), wide.data(), bias.bytes.size());
    }
  }

  /// Every tensor is read, known to hold nothing, a copy of the embedding, or an error.
  void check_unread() {
    std::vector<std::string> unknown;
    int64_t of_training = 0;
    for (const auto& [name, tensor] : tensors_.tensors()) {
      if (read_.contains(name) || is_ignored(name)) continue;
      if (name == "lm_head.weight" && recipe_.model.tie_embeddings) {
        check_copy_of_embedding(tensor);
      } else if (family_.has_layers_of_training && is_behind_last_layer(name)) {
        ++of_training;
      } else {
        unknown.push_back(tensors_.where(tensor));
      }
    }
    if (of_training > 0) {
      notes_.push_back(fmt::format(
          "left out: {} tensors of layers that predict further tokens in training", of_training));
    }
    SLUICE_CHECK(CheckpointError, unknown.empty(), "{}: a {} model of this {} has no such tensor{}",
                 unknown.front(), family_.name, described_by_,
                 unknown.size() == 1 ? "" : fmt::format(", nor {} others", unknown.size() - 1));
  }

  [[nodiscard]] bool is_ignored(const std::string& name) const {
    return std::ranges::any_of(names_.ignored, [&](std::string_view pattern) {
      return fnmatch(std::string(pattern).c_str(), name.c_str(), 0) == 0;
    });
  }

  [[nodiscard]] bool is_behind_last_layer(std::string_view name) const {
    constexpr std::string_view kLayers = "model.layers.";
    if (!name.starts_with(kLayers)) return false;
    const auto layers = std::ssize(recipe_.model.sublayers()) / 2;
    return std::atoll(std::string(name.substr(kLayers.size())).c_str()) >= layers;
  }

  void check_copy_of_embedding(const StoredTensor& head) {
    const auto embedding = std::ranges::find_if(pieces_, [&](const Piece& piece) {
      return parameters_[piece.parameter].name == "embedding.weight";
    });
    const StoredTensor& tensor = *find(embedding->tensor);
    bool is_same = head.dims == tensor.dims;
    constexpr int64_t kStep = int64_t{1} << 18;
    std::vector<float> a;
    std::vector<float> b;
    for (int64_t at = 0; is_same && at < head.numel(); at += kStep) {
      a.resize(static_cast<size_t>(std::min(kStep, head.numel() - at)));
      b.resize(a.size());
      tensors_.read(head, at, a);
      tensors_.read(tensor, at, b);
      is_same = std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    }
    SLUICE_CHECK(CheckpointError, is_same,
                 "{} differs from the embedding, but config.json ties them (tie_word_embeddings)",
                 tensors_.where(head));
  }

  const Family& family_;
  const NameMap& names_;
  std::string described_by_;  // the name of config.json, for messages
  const Recipe& recipe_;
  const TensorFiles& tensors_;
  Rotation rotation_;
  std::vector<ParameterShape> parameters_;
  std::vector<Piece> pieces_;
  StateDict balance_;
  std::set<std::string, std::less<>> read_;
  std::vector<std::string> notes_;
  size_t next_ = 0;  // of pieces_
};

/// The checkpoint that `output` means.
fs::path checkpoint_path(const fs::path& output) {
  return output.extension() == ".h5" ? output : output / "checkpoints" / checkpoint_name(0);
}

void write(FileSystem& files, const ImportOptions& options, const ImportedModel& model,
           CheckpointImage& image) {
  if (model.checkpoint == options.output) {
    write_checkpoint(files, model.checkpoint, image);
    return;
  }
  PendingFolder folder(files, options.output);
  const fs::path checkpoint = checkpoint_path(folder.path());
  create_folders(files, checkpoint.parent_path(), raise_as<CheckpointError>);
  write_file_atomically(files, folder.path() / "recipe.yaml", bytes_of(resolved_text(model.recipe)),
                        raise_as<CheckpointError>);
  write_checkpoint(files, checkpoint, image);
  folder.publish();
}

ForeignModel open_folder(const fs::path& folder, const std::string& tokenizer) {
  SLUICE_CHECK(
      ConfigError, fs::is_directory(folder),
      "{}: no such folder; give one with config.json and model.safetensors, or a GGUF file",
      folder.string());
  const fs::path config = folder / "config.json";
  SLUICE_CHECK(ConfigError, fs::exists(config),
               "{}: holds no config.json, which says what the model is", folder.string());
  ForeignModel model{.name = config.string(),
                     .config = read_json_file(config, raise_as<CheckpointError>)};
  model.tokenizer = find_tokenizer(folder, tokenizer);
  model.tensors = open_safetensors(folder);
  return model;
}

ForeignModel open_file(const fs::path& path, const std::string& tokenizer) {
  GgufModel file = read_gguf_model(path);
  ForeignModel model{.name = path.string(),
                     .config = std::move(file.config),
                     .tensors = std::move(file.tensors),
                     .names = &gguf_names(),
                     .heads = HeadOrder::theirs_interleaved};
  SLUICE_CHECK(ConfigError, file.tokenizer != nullptr || !tokenizer.empty(),
               "{}: has no tokenizer that is known; name one with --tokenizer FILE, or say "
               "--tokenizer bytes",
               path.string());
  // A recipe names the file; that is read again only by those who train with it.
  model.tokenizer = tokenizer.empty() ? FoundTokenizer{file.tokenizer, tokenizer_choice(path)}
                                      : find_tokenizer(path.parent_path(), tokenizer);
  return model;
}

}  // namespace

ImportedModel import_model(const ImportOptions& options, FileSystem& files) {
  check_new_file("--out", options.output);
  const ForeignModel foreign = fs::is_regular_file(options.source)
                                   ? open_file(options.source, options.tokenizer)
                                   : open_folder(options.source, options.tokenizer);
  const ConfigReader config(foreign.config, foreign.name);
  const std::string type = config.text_or("model_type", "");
  const Family* family = family_registry().find(type);
  SLUICE_CHECK(CheckpointError, family != nullptr, "{}: {}", config.name(),
               type.empty() ? "has no model_type, which names the model's family"
                            : unknown_name("model_type", type, family_registry().names()));
  ImportedModel model{.family = type,
                      .checkpoint = checkpoint_path(options.output),
                      .recipe = recipe_of(*family, config, foreign.tokenizer)};
  const Tokenizer& tokenizer = *foreign.tokenizer.tokenizer;
  Importer importer(*family, foreign, model.recipe, tokenizer.vocab_size());
  model.parameters = importer.num_parameters();
  model.notes = importer.notes();

  CheckpointImage image;
  const CheckpointMeta meta{.recipe = resolved_text(model.recipe),
                            .tokenizer_kind = std::string(tokenizer.kind()),
                            .tokenizer = tokenizer.serialize(),
                            .build = build_fingerprint()};
  image.fill(model.checkpoint.string(), meta, importer.arrays(),
             [&](size_t i, std::span<std::byte> elements) { importer.write(i, elements); });
  write(files, options, model, image);
  return model;
}

}  // namespace sluice
