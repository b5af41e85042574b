#pragma once
// Text to token ids and back. Implementations stand in data/tokenizers, one file each, listed in
// tokenizers.def.
//
//   auto tokenizer = make_tokenizer(config.tokenizer, corpus);
//   std::vector<int32_t> ids = tokenizer->encode("to be\n");
//   std::string text = tokenizer->decode(ids);           // "to be\n" again, byte for byte

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/function_ref.h"
#include "data/fingerprint.h"

namespace sluice {

/// Immutable after construction; every method may be called from many threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The name under which deserialize_tokenizer finds the implementation: "bytes", "sentencepiece".
  [[nodiscard]] virtual std::string_view kind() const = 0;
  /// Everything needed to build the same tokenizer again: the bytes that a checkpoint stores.
  [[nodiscard]] virtual std::string serialize() const = 0;
  /// Ids are 0 .. vocab_size - 1.
  [[nodiscard]] virtual int64_t vocab_size() const = 0;
  [[nodiscard]] virtual std::optional<int32_t> bos_id() const { return std::nullopt; }
  /// The token that ends every document.
  [[nodiscard]] virtual std::optional<int32_t> eos_id() const { return std::nullopt; }
  [[nodiscard]] virtual std::optional<int32_t> pad_id() const { return std::nullopt; }
  /// True when decode(encode(text)) == text for every valid UTF-8 text. Every tokenizer made here
  /// is; a file from elsewhere that normalises its text is not.
  [[nodiscard]] virtual bool is_lossless() const { return true; }

  /// The ids of `text`, without bos or eos: a control token's name in the text is text. Throws
  /// DataError when `text` is not valid UTF-8 and the tokenizer needs it to be.
  [[nodiscard]] virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  /// The bytes that `id` stands for, maybe a part of a character; empty for control tokens. Throws
  /// DataError when `id` is outside the vocabulary.
  [[nodiscard]] virtual std::string_view token_bytes(int32_t id) const = 0;
  /// The bytes of all `ids` joined; invalid UTF-8 when the ids are no encoding of a text.
  [[nodiscard]] virtual std::string decode(std::span<const int32_t> ids) const;
};

/// Decodes a stream of tokens into printable pieces: a character that is not complete yet is held
/// back, and bytes that can never become one are replaced by U+FFFD. Keeps a reference to the
/// tokenizer.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// The characters that `id` completes, often none or one token's text.
  [[nodiscard]] std::string push(int32_t id);
  /// What is still held back, as U+FFFD; the decoder is as new afterwards.
  [[nodiscard]] std::string flush();

 private:
  const Tokenizer& tokenizer_;
  std::string held_;
};

/// The text a tokenizer may be trained on: calls its argument once per document, the same documents
/// in the same order every time.
using TextCorpus = FunctionRef<void(FunctionRef<void(std::string_view)>)>;

/// One line of tokenizers.def.
struct TokenizerType {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  /// Reads `text` only when it has to be trained.
  std::unique_ptr<Tokenizer> (*make)(const Configurable& config, TextCorpus text);
  /// Adds what training depends on besides the text; null when nothing is trained, so nothing is
  /// worth keeping.
  void (*add_to)(const Configurable& config, Fingerprint& fingerprint);
  /// Undoes Tokenizer::serialize, or null for a type that only makes tokenizers of another kind.
  /// Throws DataError.
  std::unique_ptr<Tokenizer> (*deserialize)(std::string_view bytes);
};

/// The choices of the recipe's `data.tokenizer`.
[[nodiscard]] std::span<const Choice> tokenizer_choices();

/// Makes, loads or trains the tokenizer that `choice` describes. Throws ConfigError for an unknown
/// type or a missing file, DataError for a damaged file or a text too small to train on.
[[nodiscard]] std::unique_ptr<Tokenizer> make_tokenizer(const Tagged& choice, TextCorpus text);

/// Adds all that decides what make_tokenizer trains, but for the text. False when it trains
/// nothing.
[[nodiscard]] bool add_tokenizer_training(const Tagged& choice, Fingerprint& fingerprint);

/// The tokenizer whose kind() and serialize() a checkpoint stored. Throws DataError.
[[nodiscard]] std::unique_ptr<Tokenizer> deserialize_tokenizer(std::string_view kind,
                                                               std::string_view bytes);

/// Bytes of text that each id stands for, [vocab_size]: what bits per byte divides by.
[[nodiscard]] std::vector<int32_t> token_byte_lengths(const Tokenizer& tokenizer);

}  // namespace sluice
