#pragma once
// The tokenizer of a folder with a model in it.

#include <filesystem>
#include <memory>
#include <string>

#include "data/tokenizer.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {

/// The tokenizer and what a recipe calls it.
struct FoundTokenizer {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::string choice;  // {"type": "file", "path": "..."} or {"type": "bytes"}
};

/// FoundTokenizer::choice of a file. Recipes are UTF-8: a name that is not has U+FFFD in it.
[[nodiscard]] std::string tokenizer_choice(const std::filesystem::path& path);

/// `named` (a file, or "bytes"), or when it is empty the one in `folder`: tokenizer.model, a
/// tokenizer.json of byte-level byte pairs or of the single bytes that write_tokenizer writes, or a
/// tok*.bin of llama2.c. Throws ConfigError when there is none, DataError.
[[nodiscard]] FoundTokenizer find_tokenizer(const std::filesystem::path& folder,
                                            const std::string& named);

/// Writes the files by which other programs find the tokenizer of a checkpoint: tokenizer.json with
/// tokenizer_config.json, and of a SentencePiece model tokenizer.model too. Throws CheckpointError.
void write_tokenizer(FileSystem& files, const std::filesystem::path& folder,
                     const CheckpointMeta& meta);

/// Whether the tokenizer of a checkpoint normalises and cuts text as Qwen2's own, which transformers 5
/// takes a qwen2 folder's tokenizer to do whatever its tokenizer.json says.
[[nodiscard]] bool cuts_as_qwen2(const CheckpointMeta& meta);

}  // namespace sluice
