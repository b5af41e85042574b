#include "data/tokenizers/llama2c.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "data/tokenizers/sentencepiece_model.h"

namespace sluice {
namespace {

constexpr size_t kFirstByte = 3;
constexpr size_t kBytes = 256;
constexpr size_t kFirstMerge = kFirstByte + kBytes;
constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

struct Piece {
  float score = 0.0f;
  std::string_view text;
};

/// Takes a value from the front of `file`; false at its end.
template <class T>
bool take(std::string_view& file, T& value) {
  if (file.size() < sizeof(T)) return false;
  std::memcpy(&value, file.data(), sizeof(T));
  file.remove_prefix(sizeof(T));
  return true;
}

std::optional<std::vector<Piece>> read_pieces(std::string_view file) {
  int32_t longest = 0;
  if (!take(file, longest) || longest < 1 || longest > 4096) return std::nullopt;
  std::vector<Piece> pieces;
  while (!file.empty()) {
    Piece piece;
    int32_t length = 0;
    if (!take(file, piece.score) || !take(file, length)) return std::nullopt;
    if (length < 1 || length > longest || static_cast<size_t>(length) > file.size()) {
      return std::nullopt;
    }
    piece.text = file.substr(0, static_cast<size_t>(length));
    file.remove_prefix(static_cast<size_t>(length));
    pieces.push_back(piece);
  }
  if (pieces.size() < kFirstMerge) return std::nullopt;
  for (size_t byte = 0; byte < kBytes; ++byte) {
    if (pieces[kFirstByte + byte].text != fmt::format("<0x{:02X}>", byte)) return std::nullopt;
  }
  return pieces;
}

std::string with_space_symbols(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == ' ') {
      result += kSpaceSymbol;
    } else {
      result += c;
    }
  }
  return result;
}

}  // namespace

std::optional<std::string> sentencepiece_of_llama2c(std::string_view file) {
  using Kind = SentencePieceVocabulary::Kind;
  const auto pieces = read_pieces(file);
  if (!pieces) return std::nullopt;
  SentencePieceVocabulary vocabulary;
  vocabulary.pieces = {
      {"<unk>", 0.0f, Kind::unknown}, {"<s>", 0.0f, Kind::control}, {"</s>", 0.0f, Kind::control}};
  for (size_t id = kFirstByte; id < pieces->size(); ++id) {
    const Piece& piece = (*pieces)[id];
    const bool is_byte = id < kFirstMerge;
    vocabulary.pieces.push_back({is_byte ? std::string(piece.text) : with_space_symbols(piece.text),
                                 piece.score, is_byte ? Kind::byte : Kind::normal});
  }
  vocabulary.bos = 1;
  vocabulary.eos = 1;  // the token between documents
  return serialize_sentencepiece(vocabulary);
}

}  // namespace sluice
