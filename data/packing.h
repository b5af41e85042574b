#pragma once
// Documents to sequences.
//
// A corpus of L tokens is an endless stream: its documents in the order of epoch 0, then of epoch
// 1, and so on. Sequence j of length T is the stream's tokens [j T, (j + 1) T): nothing is dropped
// and nothing is padded, every token comes once per epoch, and a document that does not fit goes on
// in another sequence as a new piece. The sequences that begin in one epoch are shuffled among
// themselves, so that the pieces of a long document do not follow each other. Sequence j is
// therefore a pure function of (seed, source, j), and to resume is to go on counting.

#include <array>
#include <cstdint>
#include <vector>

#include "data/batch.h"
#include "data/corpus.h"

namespace sluice {

struct PackingOptions {
  int64_t sequence_length = 512;
  uint64_t seed = 0;
  bool shuffle = true;
  // The target of a document's last token: the next document's first token, or ignored.
  bool cross_document_loss = false;
};

/// Appends tokens [begin, begin + count) of a document as one piece. `target_after` is the target
/// of the document's last token, should the piece reach it.
void append_piece(const Corpus& corpus, int64_t document, int64_t begin, int64_t count,
                  int32_t target_after, Batch& batch);

/// The endless stream of one corpus. Keeps a reference to the corpus, and the orders of two epochs.
/// Not thread-safe.
class PackedCorpus {
 public:
  /// `source_index` keys the shuffles. The corpus must not be empty.
  PackedCorpus(const Corpus& corpus, const PackingOptions& options, uint32_t source_index);

  /// Appends sequence `index` >= 0, exactly sequence_length tokens, under the name `global_sample`.
  /// Cheap when indices grow; a new epoch costs a shuffle of its documents and sequences.
  void append_sequence(int64_t index, uint64_t global_sample, Batch& batch);

 private:
  struct Epoch {
    int64_t number = -1;
    std::vector<int64_t> documents;  // [D] in this epoch's order
    std::vector<int64_t> starts;     // [D + 1] offset of each within the epoch's L tokens
    std::vector<int64_t>
        sequences;  // those that begin in this epoch, in the order they are given out
  };
  struct Place {
    int64_t document = 0;
    int64_t offset = 0;  // within the document
  };

  [[nodiscard]] int64_t first_sequence_of(int64_t epoch) const;
  const Epoch& epoch(int64_t number);
  [[nodiscard]] Place place_at(int64_t position);
  [[nodiscard]] int32_t first_target_at(int64_t position);
  [[nodiscard]] std::vector<int64_t> permutation(int64_t size, uint64_t epoch, uint64_t what) const;

  const Corpus& corpus_;
  PackingOptions options_;
  uint32_t source_index_;
  // A sequence spans two epochs at most, unless the corpus is shorter than a sequence.
  std::array<Epoch, 2> epochs_;
};

}  // namespace sluice
