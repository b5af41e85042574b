#pragma once
// Subword tokenizers of the SentencePiece library (Kudo and Richardson 2018): byte-pair encoding
// (Sennrich et al. 2016) and the unigram language model (Kudo 2018).

#include <memory>
#include <string>
#include <string_view>

#include "data/tokenizer.h"

namespace sluice {

/// A tokenizer from a serialized SentencePiece model (the bytes of a `.model` file). Throws
/// DataError when `model` is no such thing.
///
/// Note [Lossless SentencePiece]
/// The library writes a space as U+2581 and reads every U+2581 back as a space, so a text that
/// holds that character would not survive. We therefore encode it ourselves, as its three byte
/// tokens, and decode from our own table of the bytes that each id stands for. With no
/// normalisation, no dummy prefix and byte fallback, which are what `train_sentencepiece` sets,
/// decode(encode(x)) == x for every valid UTF-8 text, tabs, NULs, carriage returns and runs of
/// spaces included. A model from elsewhere that adds a dummy prefix, normalises or has no byte
/// fallback is found out by a probe text; it encodes whole texts by the library's own rules, and
/// is_lossless() is false.
[[nodiscard]] std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view model);

struct SentencePieceConfig final : Configurable {
  int64_t vocab_size = 4096;
  std::string algorithm = "bpe";
  int64_t training_bytes = 10'000'000;
  double character_coverage = 0.9995;

  void fields(FieldVisitor& visitor) override;
};

/// Trains on `text`: all of it, or a sample of about `training_bytes` bytes chosen line by line by
/// a fixed random stream. One thread: the same text and config give the same bytes. Ids: 0 unknown
/// (never produced), 1 the end of a document, 2 to 257 the bytes, then the learned pieces. Returns
/// the serialized model. Throws DataError when the text is empty or cannot fill the vocabulary.
[[nodiscard]] std::string train_sentencepiece(const SentencePieceConfig& config, TextCorpus text);

}  // namespace sluice
