#pragma once
// Encoded corpora and trained tokenizers kept on disk, so that a second run does not repeat the
// work. A file's name is the hash of everything that decided its content; a changed input therefore
// never meets an old file, and deleting the folder costs time only. Files are written whole or not
// at all, so runs may share a folder.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "data/corpus.h"
#include "data/tokenizer.h"

namespace sluice {

class TokenCache {
 public:
  /// Without a folder nothing is ever found or kept. The folder is created when first written to.
  explicit TokenCache(std::optional<std::string> folder) : folder_(std::move(folder)) {}

  [[nodiscard]] bool is_enabled() const { return folder_.has_value(); }

  /// The corpus stored under `key`, without domain and weight. A damaged file counts as absent and
  /// is replaced by the next store.
  [[nodiscard]] std::optional<Corpus> find_corpus(const std::string& key) const;
  /// Throws DataError when the file cannot be written.
  void store_corpus(const std::string& key, const Corpus& corpus) const;

  /// Null when there is none.
  [[nodiscard]] std::unique_ptr<Tokenizer> find_tokenizer(const std::string& key) const;
  void store_tokenizer(const std::string& key, const Tokenizer& tokenizer) const;

 private:
  [[nodiscard]] std::filesystem::path file(const std::string& name) const;

  std::optional<std::string> folder_;
};

/// A corpus as an HDF5 file that a source of type `tokens` reads too: /tokens, /document_offsets,
/// and beside them /document_bytes and /loss_begin. Throws DataError when it cannot be written or
/// read.
void write_token_shard(const std::filesystem::path& path, const Corpus& corpus);
[[nodiscard]] Corpus read_token_shard(const std::filesystem::path& path);

}  // namespace sluice
