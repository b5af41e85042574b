#pragma once
// A Hugging Face tokenizer.json of byte-level byte pairs (GPT-2, Llama 3, Qwen, OLMo, DeepSeek, ...) as
// its parts.
//
// Read: model BPE (vocab; merges as "a b" or ["a", "b"]; ignore_merges), added_tokens, normalizer NFC, NFD,
// NFKC, NFKD, pre_tokenizer ByteLevel, Split, Digits, Punctuation, post_processor ByteLevel and
// TemplateProcessing, decoder ByteLevel, and Sequences of them. All else is refused by name rather than
// passed over, but for what decides no token: offsets, and `truncation` and `padding`, which are settings of
// a call.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/added_tokens.h"
#include "data/tokenizers/byte_pairs.h"
#include "data/tokenizers/normal_form.h"
#include "data/tokenizers/pre_tokenizer.h"

namespace sluice {

struct ByteLevelModel {
  std::vector<std::string> names;      // by id, as the file has them; empty for an id without token
  std::vector<std::string> bytes;      // by id, what a token stands for; empty for special ones
  std::vector<int32_t> pieces;         // ids of the vocabulary that spell bytes
  std::array<int32_t, 256> byte_ids{};  // -1 without
  std::vector<BytePairs::Merge> merges;
  bool whole_first = false;
  std::vector<AddedToken> added;
  std::vector<NormalForm> normal_forms;
  PreTokenizer pre_tokenizer;
  /// What the post-processor puts before and behind a text.
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;

  /// The id of a token by its name; nullopt without.
  [[nodiscard]] std::optional<int32_t> id_of(std::string_view name) const;
  /// True when every byte has a token.
  [[nodiscard]] bool has_all_bytes() const;
};

/// Throws DataError, one sentence, for what is no such file or has parts that are not read. Ids may have
/// gaps, but at most every other id may lack a token.
[[nodiscard]] ByteLevelModel read_byte_level_model(std::string_view tokenizer_json);

}  // namespace sluice
