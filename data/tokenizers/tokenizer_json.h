#pragma once
// Byte-level byte-pair tokenizers of published models, from their tokenizer.json (byte_level_model.h says
// what of it is read).
//
//   const auto tokenizer = load_tokenizer_json("qwen2/tokenizer.json");
//
// A text is cut at its added tokens, brought into the normal form the file asks for, cut at the added
// tokens that are found there, cut into pieces, and the bytes of each piece are merged. Any bytes may be
// encoded: those that are no valid UTF-8 are pieces of their own, which no file says anything about.
//
// Special tokens are no text: a text that holds the letters of one is encoded as letters, as with every
// tokenizer here (in the library that writes these files, with encode_special_tokens). `special_tokens:
// tokens` finds them in texts that were made for it, say from a chat template; decoding leaves them out.

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "data/tokenizer.h"

namespace sluice {

struct TokenizerJsonConfig final : Configurable {
  std::string path;
  std::string special_tokens = "text";
  std::string eos;

  void fields(FieldVisitor& visitor) override;
};

/// The tokens beside a text by their names: of the recipe (`eos`), else of the tokenizer_config.json in
/// the folder of the file, else of the file's post-processor; the end of a document also by the usual
/// names among the special tokens. Throws ConfigError when there is no such file, DataError, one sentence
/// that begins with its path, for one that is damaged or not of this kind.
[[nodiscard]] std::unique_ptr<Tokenizer> load_tokenizer_json(const std::string& path);

/// What Tokenizer::serialize stored, for who writes files again.
struct StoredTokenizerJson {
  std::string_view file;  // tokenizer.json, byte for byte; in the argument's memory
  std::optional<std::string> bos;
  std::optional<std::string> eos;
  std::optional<std::string> pad;
};
/// Throws DataError.
[[nodiscard]] StoredTokenizerJson stored_tokenizer_json(std::string_view serialized);

}  // namespace sluice
