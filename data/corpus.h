#pragma once
// The tokens of one source, document by document, in memory.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/fingerprint.h"
#include "data/source.h"
#include "data/token_store.h"
#include "data/tokenizer.h"

namespace sluice {

struct Corpus {
  TokenStore tokens;
  std::vector<int64_t> document_offsets = {0};  // [D + 1] into tokens
  std::vector<int64_t> document_bytes;  // [D] bytes of text, the end-of-document token counting 0
  std::vector<int64_t> loss_begin;  // [D] index in the document of the first token that is learned
  int32_t domain = 0;               // index into the data set's domains
  double weight = 1.0;

  explicit Corpus(TokenStore empty) : tokens(std::move(empty)) {}
  explicit Corpus(int64_t vocab_size) : tokens(vocab_size) {}

  [[nodiscard]] int64_t num_documents() const { return static_cast<int64_t>(loss_begin.size()); }
  [[nodiscard]] int64_t num_tokens() const { return tokens.size(); }
  [[nodiscard]] int64_t num_bytes() const;
  [[nodiscard]] int64_t document_length(int64_t document) const {
    return document_offsets[document + 1] - document_offsets[document];
  }
  /// The target that token `index` of `document` is: itself, or kIgnoredTarget for a prompt and for
  /// what follows nothing, the document's first token.
  [[nodiscard]] int32_t target(int64_t document, int64_t index) const;

  /// Appends one document; an empty one is left out.
  void add_document(std::span<const int32_t> ids, int64_t bytes, int64_t learned_from);
  /// Appends a copy of tokens [begin, end) of a document of `from`, as a document with `bytes`
  /// bytes.
  void add_part(const Corpus& from, int64_t document, int64_t begin, int64_t end, int64_t bytes);

  /// Adds tokens and boundaries; not weight and domain.
  void add_to(Fingerprint& fingerprint) const;
  friend bool operator==(const Corpus&, const Corpus&) = default;
};

/// Reads the whole source and encodes it, on all threads; each document ends with the tokenizer's
/// end-of-document token, if it has one. `name` is what messages call the source. Throws DataError
/// when there is no document that has a token, or a ready token is outside the vocabulary.
[[nodiscard]] Corpus encode_source(const Source& source, const Tokenizer& tokenizer,
                                   const std::string& name);

}  // namespace sluice
