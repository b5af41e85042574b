#pragma once
// A SentencePiece model as a tokenizer.json, which Hugging Face's tokenizers library reads by itself:
// a tokenizer.model needs further packages there, and transformers adds a space before its texts.
//
//   byte pairs   merges in the order of their results' scores. Of equal scores SentencePiece takes
//                the leftmost in a text, the library the first of its list: merges of one piece stand
//                with the longest left part first, in a run of equal characters the leftmost.
//   unigram      pieces and scores; control and byte pieces, which no text may match, far below. The
//                library still finds one where a text holds its name and a character of that is
//                unknown, and of equally likely cuts it may take another (a run of one character).
//
// U+2581 stands for a space in a vocabulary of this kind. A text that holds that character itself
// has a space there for the library; our own tokenizers take its bytes (Note [Lossless
// SentencePiece]).

#include <nlohmann/json_fwd.hpp>

#include "data/tokenizers/sentencepiece_model.h"

namespace sluice {

/// `by_lines`: texts are cut behind their line breaks first, as our own lossless tokenizers do
/// (data/tokenizers/segments.h). Throws CheckpointError for a model of words or characters, or of
/// pieces that are no UTF-8.
[[nodiscard]] nlohmann::ordered_json sentencepiece_json(const SentencePieceVocabulary& vocabulary,
                                                        bool by_lines);

}  // namespace sluice
