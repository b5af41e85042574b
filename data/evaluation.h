#pragma once
// The held-out documents, once, in order, domain by domain.

#include <cstdint>
#include <optional>

#include "data/batch.h"
#include "data/dataset.h"

namespace sluice {

struct EvaluationOptions {
  int64_t sequence_length = 512;
  int64_t sequences_per_batch = 1;    // of all ranks together
  std::optional<int64_t> max_tokens;  // of each domain; the first ones are taken
  int64_t rank = 0;  // this rank gets the sequences i of a pass with i mod num_ranks == rank
  int64_t num_ranks = 1;
};

struct EvaluationBatch {
  Batch batch;         // of one domain
  int32_t domain = 0;  // index into Dataset::domains
  int64_t target_bytes =
      0;  // bytes of text of the valid targets: bits per byte = loss sum / log(2) / this
};

/// Sequences are packed as in training, documents in order, without a wrap-around: the last
/// sequence of a domain is as long as what is left. Global samples count from 0. Keeps a reference
/// to the data. Not thread-safe.
class EvaluationPass {
 public:
  EvaluationPass(const Dataset& data, const EvaluationOptions& options);

  /// The next batch of this rank, or nullopt when the pass is over. Ranks may get different numbers
  /// of batches.
  [[nodiscard]] std::optional<EvaluationBatch> next();

 private:
  [[nodiscard]] bool has_more_in_domain() const;
  void begin_domain(int32_t domain);
  void append_sequence(Batch& batch);
  void skip_finished_corpora();

  const Dataset& data_;
  EvaluationOptions options_;
  int32_t domain_ = -1;
  size_t corpus_ = 0;        // index into data_.held_out
  int64_t document_ = 0;     // in that corpus
  int64_t offset_ = 0;       // in that document
  int64_t tokens_left_ = 0;  // of this domain
  uint64_t sample_ = 0;
};

}  // namespace sluice
