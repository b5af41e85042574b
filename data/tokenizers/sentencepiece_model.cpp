#include "data/tokenizers/sentencepiece_model.h"

#include <algorithm>
#include <cstring>

namespace sluice {
namespace {

using Kind = SentencePieceVocabulary::Kind;
using Piece = SentencePieceVocabulary::Piece;

// Field numbers of model.proto.
constexpr uint32_t kPieces = 1;
constexpr uint32_t kTrainer = 2;
constexpr uint32_t kNormalizer = 3;
constexpr uint32_t kPieceText = 1;
constexpr uint32_t kPieceScore = 2;
constexpr uint32_t kPieceKind = 3;
constexpr uint32_t kModelType = 3;
constexpr uint32_t kVocabSize = 4;
constexpr uint32_t kByteFallback = 35;
constexpr uint32_t kUnknownId = 40;
constexpr uint32_t kBosId = 41;
constexpr uint32_t kEosId = 42;
constexpr uint32_t kPadId = 43;
constexpr uint32_t kUnknownPiece = 45;
constexpr uint32_t kBosPiece = 46;
constexpr uint32_t kEosPiece = 47;
constexpr uint32_t kRuleName = 1;
constexpr uint32_t kRules = 2;
constexpr uint32_t kAddDummyPrefix = 3;
constexpr uint32_t kRemoveExtraWhitespaces = 4;
constexpr uint32_t kEscapeWhitespaces = 5;
constexpr uint64_t kUnigram = 1;
constexpr uint64_t kBytePairEncoding = 2;

class Message {
 public:
  void integer(uint32_t field, uint64_t value) {
    varint(uint64_t{field} << 3U);
    varint(value);
  }
  void number(uint32_t field, float value) {
    varint((uint64_t{field} << 3U) | 5U);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(uint32_t field, std::string_view value) {
    varint((uint64_t{field} << 3U) | 2U);
    varint(value.size());
    bytes_ += value;
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 128; value >>= 7U) bytes_ += static_cast<char>((value & 127U) | 128U);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

struct Field {
  uint32_t number = 0;
  uint64_t integer = 0;    // wire type 0
  float value = 0.0f;      // wire type 5
  std::string_view bytes;  // wire type 2
};

/// Takes a message apart; `is_whole` says whether it ended where its bytes do.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : rest_(bytes) {}

  std::optional<Field> next() {
    uint64_t key = 0;
    if (rest_.empty() || !varint(key)) return std::nullopt;
    Field field{.number = static_cast<uint32_t>(key >> 3U)};
    switch (key & 7U) {
      case 0:
        if (!varint(field.integer)) return std::nullopt;
        return field;
      case 1:
        return skip(8) ? std::optional(field) : std::nullopt;
      case 2: {
        uint64_t size = 0;
        if (!varint(size) || size > rest_.size()) return fail();
        field.bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return field;
      }
      case 5:
        if (rest_.size() < 4) return fail();
        std::memcpy(&field.value, rest_.data(), 4);
        rest_.remove_prefix(4);
        return field;
      default:
        return fail();
    }
  }
  [[nodiscard]] bool is_whole() const { return !failed_ && rest_.empty(); }

 private:
  std::optional<Field> fail() {
    failed_ = true;
    return std::nullopt;
  }
  bool skip(size_t bytes) {
    if (rest_.size() < bytes) {
      failed_ = true;
      return false;
    }
    rest_.remove_prefix(bytes);
    return true;
  }
  bool varint(uint64_t& value) {
    for (uint32_t shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 127U} << shift;
      if (byte < 128) return true;
    }
    failed_ = true;
    return false;
  }

  std::string_view rest_;
  bool failed_ = false;
};

std::string piece_message(const Piece& piece) {
  Message message;
  message.text(kPieceText, piece.text);
  message.number(kPieceScore, piece.score);
  message.integer(kPieceKind, static_cast<uint64_t>(piece.kind));
  return message.bytes();
}

std::string trainer_message(const SentencePieceVocabulary& vocabulary) {
  const auto& pieces = vocabulary.pieces;
  const auto bytes = std::ranges::count(pieces, Kind::byte, &Piece::kind);
  const auto unknown = std::ranges::find(pieces, Kind::unknown, &Piece::kind);
  const auto id = [](std::optional<int32_t> token) {
    return token ? static_cast<uint64_t>(*token) : ~uint64_t{0};
  };
  const auto text = [&](std::optional<int32_t> token) {
    return token ? std::string_view(pieces[static_cast<size_t>(*token)].text) : "";
  };
  Message message;
  message.integer(kModelType, kBytePairEncoding);
  message.integer(kVocabSize, pieces.size());
  message.integer(kByteFallback, bytes == 256 ? 1 : 0);
  message.integer(kUnknownId, static_cast<uint64_t>(unknown - pieces.begin()));
  message.integer(kBosId, id(vocabulary.bos));
  message.integer(kEosId, id(vocabulary.eos));
  message.integer(kPadId, id(std::nullopt));
  if (unknown != pieces.end()) message.text(kUnknownPiece, unknown->text);
  message.text(kBosPiece, text(vocabulary.bos));
  message.text(kEosPiece, text(vocabulary.eos));
  return message.bytes();
}

std::string normalizer_message(const SentencePieceVocabulary& vocabulary) {
  Message message;
  message.text(kRuleName, "identity");
  message.integer(kAddDummyPrefix, vocabulary.adds_space_before ? 1 : 0);
  message.integer(kRemoveExtraWhitespaces, 0);
  message.integer(kEscapeWhitespaces, 1);
  return message.bytes();
}

std::optional<Piece> parse_piece(std::string_view bytes) {
  Piece piece;
  FieldReader reader(bytes);
  while (const auto field = reader.next()) {
    if (field->number == kPieceText) piece.text = field->bytes;
    if (field->number == kPieceScore) piece.score = field->value;
    if (field->number == kPieceKind) {
      if (field->integer < 1 || field->integer > 6) return std::nullopt;
      piece.kind = static_cast<Kind>(field->integer);
    }
  }
  if (!reader.is_whole() || piece.text.empty()) return std::nullopt;
  return piece;
}

/// The control piece of this text.
std::optional<int32_t> control_piece(const SentencePieceVocabulary& vocabulary,
                                     std::string_view text) {
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const Piece& piece = vocabulary.pieces[id];
    if (piece.kind == Kind::control && piece.text == text) return static_cast<int32_t>(id);
  }
  return std::nullopt;
}

bool parse_trainer(std::string_view bytes, SentencePieceVocabulary& vocabulary) {
  std::string_view bos = "<s>";
  std::string_view eos = "</s>";
  uint64_t type = kUnigram;  // the default
  FieldReader reader(bytes);
  while (const auto field = reader.next()) {
    if (field->number == kModelType) type = field->integer;
    if (field->number == kBosPiece) bos = field->bytes;
    if (field->number == kEosPiece) eos = field->bytes;
  }
  vocabulary.is_bpe = type == kBytePairEncoding;
  vocabulary.is_unigram = type == kUnigram;
  vocabulary.bos = control_piece(vocabulary, bos);
  vocabulary.eos = control_piece(vocabulary, eos);
  return reader.is_whole();
}

bool parse_normalizer(std::string_view bytes, SentencePieceVocabulary& vocabulary) {
  vocabulary.adds_space_before = true;
  vocabulary.removes_extra_spaces = true;
  FieldReader reader(bytes);
  while (const auto field = reader.next()) {
    if (field->number == kRules) vocabulary.rules = field->bytes;
    if (field->number == kRemoveExtraWhitespaces) {
      vocabulary.removes_extra_spaces = field->integer != 0;
    }
    if (field->number == kAddDummyPrefix) vocabulary.adds_space_before = field->integer != 0;
  }
  return reader.is_whole();
}

}  // namespace

std::string serialize_sentencepiece(const SentencePieceVocabulary& vocabulary) {
  Message model;
  for (const Piece& piece : vocabulary.pieces) model.text(kPieces, piece_message(piece));
  model.text(kTrainer, trainer_message(vocabulary));
  model.text(kNormalizer, normalizer_message(vocabulary));
  return model.bytes();
}

std::optional<SentencePieceVocabulary> parse_sentencepiece(std::string_view model) {
  SentencePieceVocabulary vocabulary;
  std::string_view trainer;
  std::string_view normalizer;
  FieldReader reader(model);
  while (const auto field = reader.next()) {
    if (field->number == kPieces) {
      const auto piece = parse_piece(field->bytes);
      if (!piece) return std::nullopt;
      vocabulary.pieces.push_back(*piece);
    }
    if (field->number == kTrainer) trainer = field->bytes;
    if (field->number == kNormalizer) normalizer = field->bytes;
  }
  if (!reader.is_whole() || vocabulary.pieces.empty()) return std::nullopt;
  if (!parse_trainer(trainer, vocabulary) || !parse_normalizer(normalizer, vocabulary)) {
    return std::nullopt;
  }
  return vocabulary;
}

}  // namespace sluice
