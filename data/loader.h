#pragma once
// The training batches of a run, in order, without end.

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/dataset.h"
#include "data/mixture.h"
#include "data/packing.h"
#include "data/prefetcher.h"

namespace sluice {

/// Where a loader stands: all that a checkpoint keeps of it.
struct LoaderState {
  uint64_t fingerprint = 0;  // of the data
  std::vector<int64_t>
      drawn;  // sequences taken from each source; their sum is the next global sample

  /// As numbers for a checkpoint, and back. from_words throws DataError for words that to_words did
  /// not make.
  [[nodiscard]] std::vector<int64_t> to_words() const;
  [[nodiscard]] static LoaderState from_words(const std::vector<int64_t>& words);
  friend bool operator==(const LoaderState&, const LoaderState&) = default;
};

struct LoaderOptions {
  PackingOptions packing;
  int64_t sequences_per_batch = 1;  // of the global batch, all ranks together
  int64_t sequences_per_draw = 1;   // that come from one source in a row
  int64_t prefetch = 2;             // batches made ahead; 0 makes each when it is asked for
  int64_t rank = 0;  // this rank gets the sequences i of a batch with i mod num_ranks == rank
  int64_t num_ranks = 1;
};

/// A source's share of the sequences is weight times its number of tokens, over the sum of all. The
/// sequence of global sample g is a pure function of (seed, data, g): neither the size of a batch,
/// prefetching, the number of ranks nor resuming changes it. One caller at a time. Keeps a
/// reference to the data.
class Loader {
 public:
  /// Throws DataError when no source with a weight above 0 has a token.
  Loader(const Dataset& data, const LoaderOptions& options);
  ~Loader();

  /// This rank's part of the next global batch: empty when there are fewer sequences than ranks.
  [[nodiscard]] Batch next();
  /// The state after the last batch that next() gave out; what was only prefetched does not count.
  [[nodiscard]] const LoaderState& state() const { return state_; }
  /// Goes on behind the batch after which `state` was taken. Throws DataError when it belongs to
  /// other data.
  void restore(const LoaderState& state);

  /// Tokens that next() gave to all ranks, and the same in passes over the training data.
  [[nodiscard]] int64_t tokens_drawn() const;
  [[nodiscard]] double epochs() const;

 private:
  class Producer;
  struct Produced {
    Batch batch;
    LoaderState state;
  };

  const Dataset& data_;
  LoaderOptions options_;
  LoaderState state_;
  std::unique_ptr<Producer> producer_;
  std::optional<Prefetcher<Produced>> prefetcher_;  // after producer_, which its thread uses
};

}  // namespace sluice
