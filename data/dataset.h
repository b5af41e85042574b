#pragma once
// Everything a run reads: the tokenizer, and the documents of training and evaluation in memory.
//
//   const Dataset data = load_dataset(config, seed);
//   Loader loader(data, {...});             // training, see data/loader.h
//   EvaluationPass pass(data, {...});       // the held-out documents, see data/evaluation.h

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/config.h"
#include "data/corpus.h"
#include "data/tokenizer.h"

namespace sluice {

struct DomainSize {
  std::string domain;
  int64_t documents = 0;
  int64_t tokens = 0;  // end-of-document tokens included
  int64_t bytes = 0;   // of text
  friend bool operator==(const DomainSize&, const DomainSize&) = default;
};

/// Immutable; may be read by many threads at once.
struct Dataset {
  std::shared_ptr<const Tokenizer>
      tokenizer;                     // shared: checkpoints and generation outlive the data
  std::vector<std::string> domains;  // in the order of the recipe, each once
  std::vector<Corpus> train;         // one per source
  std::vector<Corpus> held_out;      // those with documents
  std::vector<int32_t> token_bytes;  // [vocab_size] bytes of text per token
  uint64_t fingerprint = 0;          // of all tokens and boundaries, training and held out

  [[nodiscard]] int64_t num_train_tokens() const;
  /// One line per domain, those without documents left out.
  [[nodiscard]] std::vector<DomainSize> train_sizes() const;
  [[nodiscard]] std::vector<DomainSize> held_out_sizes() const;
};

/// Reads and encodes every source. Without `tokenizer` (a resumed run gives that of its checkpoint)
/// makes the one that `config` describes; training one reads all of data.sources, later held-out
/// documents included, but no separate held-out source. `seed` decides the held-out split. With
/// `config.cache` set, the second call reads the encoded text instead of encoding it. Throws
/// ConfigError for a missing file and DataError for text that cannot be used, both naming file and
/// place.
[[nodiscard]] Dataset load_dataset(const DataConfig& config, uint64_t seed,
                                   std::shared_ptr<const Tokenizer> tokenizer = nullptr);

/// Only the tokenizer, as load_dataset makes it.
[[nodiscard]] std::shared_ptr<const Tokenizer> load_tokenizer(const DataConfig& config);

}  // namespace sluice
