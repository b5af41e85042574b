#pragma once
// The held-out split: which documents are evaluated and never trained on.

#include <cstdint>

#include "data/corpus.h"
#include "data/tokenizer.h"

namespace sluice {

struct HeldOutSplit {
  Corpus train;
  Corpus held_out;
};

struct HeldOutRule {
  double fraction = 0.0;  // in [0, 1); 0 holds nothing out
  uint64_t seed = 0;
  uint32_t source_index = 0;  // position of the source in the recipe
};

/// Holds out each document whose uniform number, keyed by (seed, source, document index), is below
/// the fraction; at least one of two or more documents, and never all. Of a source that is a single
/// document its last `fraction` of tokens is held out instead; of a single token, nothing. Keeps
/// order, weight and domain. `tokenizer` counts the bytes on both sides of such a cut.
[[nodiscard]] HeldOutSplit split_held_out(Corpus corpus, const HeldOutRule& rule,
                                          const Tokenizer& tokenizer);

}  // namespace sluice
