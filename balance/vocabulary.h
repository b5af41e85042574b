#pragma once
// Vocabulary specialisation (OLMoE, Muennighoff et al. 2024, section 5.4): for an expert i and a
// token id v, (i, v) = assignments of tokens v to i / tokens v; k / E for a router that does not
// look at the token.

#include <cstdint>
#include <span>
#include <vector>

#include "balance/metrics.h"

namespace sluice {

/// How one layer serves the vocabulary. Memory: E counts for each token id seen.
class VocabularyCounts {
 public:
  VocabularyCounts(int64_t vocab_size, int64_t experts);
  /// `token_ids` [N] of the same tokens; those that do not count are left out.
  void add(std::span<const int32_t> token_ids, const Choices& choices);

  /// [E]: assignments of tokens `id`; empty for one that was not seen.
  [[nodiscard]] std::span<const int64_t> chosen(int32_t id) const;
  [[nodiscard]] int64_t tokens(int32_t id) const;

  struct Entry {
    int32_t token = 0;   // id
    int64_t tokens = 0;  // how often it was seen
    double share = 0.0;  // (i, token)
    friend bool operator==(const Entry&, const Entry&) = default;
  };
  /// The `most` token ids with the largest share of an expert, of those seen `least_tokens` times or
  /// more: a token seen once tells nothing. Of equal shares the more frequent one, then the lower
  /// id.
  [[nodiscard]] std::vector<Entry> top(int64_t expert, int64_t most, int64_t least_tokens) const;

 private:
  int64_t experts_;
  std::vector<int32_t> row_of_;  // [V]: row in counts_, -1 for an id not seen
  std::vector<int32_t> ids_;     // [rows]
  std::vector<int64_t> tokens_;  // [rows]
  std::vector<int64_t> counts_;  // [rows, E]
};

}  // namespace sluice
