#pragma once
// A SentencePiece model as its pieces: what other programs keep of it, and the way back to the bytes of
// a `.model` file (its model.proto, in protocol buffers' wire format).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct SentencePieceVocabulary {
  /// With model.proto's numbers.
  enum class Kind : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };
  struct Piece {
    std::string text;  // spaces are U+2581
    float score = 0.0f;
    Kind kind = Kind::normal;
  };
  std::vector<Piece> pieces;
  /// The control piece before, and behind, a document.
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
  bool is_bpe = true;       // merges by score
  bool is_unigram = false;  // neither: a model of words or of characters
  bool adds_space_before = true;
  // Only read:
  std::string rules;                  // the map of characters that texts go through; empty: identity
  bool removes_extra_spaces = false;  // at both ends of a text, and all but one of a run

  [[nodiscard]] bool normalises() const { return !rules.empty() || removes_extra_spaces; }
};

/// The serialized model; pieces go by their scores as merges do, and characters without one become
/// bytes where all 256 byte pieces are there.
[[nodiscard]] std::string serialize_sentencepiece(const SentencePieceVocabulary& vocabulary);

/// nullopt for bytes that are no model.
[[nodiscard]] std::optional<SentencePieceVocabulary> parse_sentencepiece(std::string_view model);

}  // namespace sluice
