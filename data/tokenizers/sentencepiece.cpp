#include "data/tokenizers/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>

#include "autograd/support/error.h"
#include "data/tokenizers/segments.h"
#include "data/utf8.h"

namespace sluice {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

// What a model must give back unchanged to be called lossless: runs of spaces at both ends, all
// kinds of line ends, a NUL, U+2581, characters that NFKC or case folding would change, a character
// no vocabulary has.
constexpr std::string_view kProbe =
    "  a  b \n\n\tc\r\n\xE2\x96\x81\xEF\xAC\x81 \xE2\x91\xA0 \xE2\x84\xAB X\0 \xF4\x8F\xBF\xBD  "sv;

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (size_t begin = 0; begin < piece.size();) {
    const size_t symbol = std::min(piece.find(kSpaceSymbol, begin), piece.size());
    text += piece.substr(begin, symbol - begin);
    if (symbol < piece.size()) text += ' ';
    begin = symbol + kSpaceSymbol.size();
  }
  return text;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(std::string_view model) : model_(model) {
    const auto status = processor_.LoadFromSerializedProto(model_);
    SLUICE_CHECK(DataError, status.ok() && processor_.GetPieceSize() > 0,
                 "not a SentencePiece model ({} bytes)", model.size());
    read_pieces();
    is_lossless_ = has_byte_fallback_ && decode(encode_segments(kProbe)) == kProbe;
    if (!is_lossless_) {
      // "a" encoded with a dummy prefix starts with a space that decoding has to drop.
      drops_leading_space_ = decode(encode_whole("a")) == " a";
    }
  }

  std::string_view kind() const override { return "sentencepiece"; }
  std::string serialize() const override { return model_; }
  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_of_.size()); }
  std::optional<int32_t> bos_id() const override { return optional_id(processor_.bos_id()); }
  std::optional<int32_t> eos_id() const override { return optional_id(processor_.eos_id()); }
  std::optional<int32_t> pad_id() const override { return optional_id(processor_.pad_id()); }
  bool is_lossless() const override { return is_lossless_; }

  std::vector<int32_t> encode(std::string_view text) const override {
    const auto invalid = find_invalid_utf8(text);
    SLUICE_CHECK(DataError, !invalid, "invalid UTF-8 at byte {} of the text", *invalid);
    return is_lossless_ ? encode_segments(text) : encode_whole(text);
  }

  std::string_view token_bytes(int32_t id) const override {
    SLUICE_CHECK(DataError, id >= 0 && id < vocab_size(),
                 "token id {} is outside the vocabulary of {} sentencepiece tokens", id,
                 vocab_size());
    return bytes_of_[static_cast<size_t>(id)];
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string text = Tokenizer::decode(ids);
    if (drops_leading_space_ && text.starts_with(' ')) text.erase(0, 1);
    return text;
  }

 private:
  static std::optional<int32_t> optional_id(int id) {
    if (id < 0) return std::nullopt;
    return id;
  }

  void read_pieces() {
    const int pieces = processor_.GetPieceSize();
    bytes_of_.resize(static_cast<size_t>(pieces));
    int byte_pieces = 0;
    for (int id = 0; id < pieces; ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      std::string& bytes = bytes_of_[static_cast<size_t>(id)];
      if (processor_.IsByte(id)) {  // "<0x0A>"
        const auto byte = static_cast<unsigned char>(std::stoi(piece.substr(1, 4), nullptr, 16));
        bytes = std::string(1, static_cast<char>(byte));
        id_of_byte_[byte] = id;
        ++byte_pieces;
      } else if (!processor_.IsControl(id) && !processor_.IsUnknown(id)) {
        bytes = with_spaces(piece);
      }
    }
    has_byte_fallback_ = byte_pieces == 256;
  }

  std::vector<int32_t> encode_whole(std::string_view text) const {
    std::vector<int> ids;
    append_encoded(text, ids);
    return ids;
  }

  std::vector<int32_t> encode_segments(std::string_view text) const {
    std::vector<int32_t> ids;
    std::vector<int> part;
    for_each_segment(text, [&](std::string_view segment) {
      while (!segment.empty()) {
        const size_t symbol = segment.find(kSpaceSymbol);
        part.clear();
        append_encoded(segment.substr(0, symbol), part);
        ids.insert(ids.end(), part.begin(), part.end());
        if (symbol == std::string_view::npos) break;
        for (const char byte : kSpaceSymbol) {
          ids.push_back(id_of_byte_[static_cast<unsigned char>(byte)]);
        }
        segment.remove_prefix(symbol + kSpaceSymbol.size());
      }
    });
    return ids;
  }

  void append_encoded(std::string_view text, std::vector<int>& ids) const {
    if (text.empty()) return;
    const auto status = processor_.Encode(absl::string_view(text.data(), text.size()), &ids);
    SLUICE_INTERNAL_CHECK(status.ok(), "SentencePiece cannot encode: {}", status.ToString());
  }

  std::string model_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> bytes_of_;  // [vocab_size]
  std::array<int32_t, 256> id_of_byte_{};
  bool has_byte_fallback_ = false;
  bool is_lossless_ = false;
  bool drops_leading_space_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(std::string_view model) {
  return std::make_unique<SentencePieceTokenizer>(model);
}

extern const TokenizerType k_tokenizer_sentencepiece;
const TokenizerType k_tokenizer_sentencepiece = {
    .name = "sentencepiece",
    .doc = "subwords trained on the corpus, lossless (SentencePiece, Kudo and Richardson 2018)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<SentencePieceConfig>();
    },
    .make = [](const Configurable& config, TextCorpus text) -> std::unique_ptr<Tokenizer> {
      return load_sentencepiece(
          train_sentencepiece(dynamic_cast<const SentencePieceConfig&>(config), text));
    },
    .add_to =
        [](const Configurable& config, Fingerprint& fingerprint) {
          const auto& c = dynamic_cast<const SentencePieceConfig&>(config);
          fingerprint.add(c.vocab_size);
          fingerprint.add(c.algorithm);
          fingerprint.add(c.training_bytes);
          fingerprint.add(c.character_coverage);
        },
    .deserialize = load_sentencepiece,
};

}  // namespace sluice
