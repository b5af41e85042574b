#pragma once
// GGUF files of the architecture "llama" (Llama, Mistral, Mixtral) as models of the families llama and
// mixtral, and back.
//
// Their query and key rows are in interleaved order, all experts of a layer lie in one tensor (older
// files: one each), and the vocabulary of a SentencePiece model stands among the keys. A `scores`
// vocabulary merges by score, so a unigram model has no place there.

#include <memory>
#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "train/checkpoint/checkpoint.h"
#include "train/interchange/gguf.h"
#include "train/interchange/name_map.h"

namespace sluice {

struct GgufModel {
  nlohmann::json config;  // as a config.json of the family
  TensorFiles tensors;
  std::shared_ptr<const Tokenizer> tokenizer;  // null when the file has none that is known
};

[[nodiscard]] const NameMap& gguf_names();

/// Throws CheckpointError for what no model of these families is.
[[nodiscard]] GgufModel read_gguf_model(const std::filesystem::path& path);

/// The keys of a file of type `type`, from a config.json of llama or mixtral and the checkpoint's
/// tokenizer. Throws ConfigError for what the file cannot say.
[[nodiscard]] GgufKeys gguf_keys(const nlohmann::ordered_json& config, const CheckpointMeta& meta,
                                 StoredType type);

/// How a tensor is stored in a file of type `type`: vectors and routers stay f32, rows that are no
/// whole blocks become f16.
[[nodiscard]] StoredType gguf_type(const std::string& tensor, std::span<const int64_t> dims,
                                   StoredType type);

}  // namespace sluice
