#pragma once
// The vocabulary of a llama2.c checkpoint (tok512.bin, tokenizer.bin), as a SentencePiece model.
//
//   i32 length of the longest piece, then per piece f32 score, i32 length, bytes; little-endian
//
// Pieces 0 to 2 are unknown, begin and end; 3 to 258 the bytes "<0x00>" to "<0xFF>"; the others have
// their U+2581 written as a space. Scores are those of byte-pair merges, as in the SentencePiece model
// that the file was made from, whose rules (a space before the text, no normalisation, unknown
// characters as bytes) are put back.
//
// Those checkpoints were trained on documents that follow a begin token (1) and nothing else; the end
// token (2) was never seen. Token 1 therefore stands between documents here, as in llama2.c's own
// program, which ends a text when it comes.

#include <optional>
#include <string>
#include <string_view>

namespace sluice {

/// The serialized SentencePiece model; nullopt for bytes that are no such file.
[[nodiscard]] std::optional<std::string> sentencepiece_of_llama2c(std::string_view file);

}  // namespace sluice
