// One token per byte: ids 0 to 255 are the bytes, 256 is the end of a document. Nothing is trained,
// and every sequence of bytes is encoded, valid UTF-8 or not.

#include <array>

#include "autograd/support/error.h"
#include "data/tokenizer.h"

namespace sluice {
namespace {

constexpr int32_t kEndOfDocument = 256;
constexpr int64_t kVocabSize = 257;
constexpr std::string_view kSerialized = "bytes 257";

constexpr std::array<char, 256> kAllBytes = [] {
  std::array<char, 256> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i);
  return bytes;
}();

class BytesTokenizer final : public Tokenizer {
 public:
  std::string_view kind() const override { return "bytes"; }
  std::string serialize() const override { return std::string(kSerialized); }
  int64_t vocab_size() const override { return kVocabSize; }
  std::optional<int32_t> eos_id() const override { return kEndOfDocument; }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids(text.size());
    for (size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<unsigned char>(text[i]);
    return ids;
  }

  std::string_view token_bytes(int32_t id) const override {
    SLUICE_CHECK(DataError, id >= 0 && id < kVocabSize,
                 "token id {} is outside the vocabulary of {} bytes tokens", id, kVocabSize);
    if (id == kEndOfDocument) return {};
    return {&kAllBytes[static_cast<size_t>(id)], 1};
  }
};

struct BytesConfig final : Configurable {
  void fields(FieldVisitor&) override {}
};

std::unique_ptr<Tokenizer> deserialize(std::string_view bytes) {
  SLUICE_CHECK(DataError, bytes == kSerialized,
               "stored bytes tokenizer: found \"{}\", expected \"{}\"", bytes.substr(0, 32),
               kSerialized);
  return std::make_unique<BytesTokenizer>();
}

}  // namespace

extern const TokenizerType k_tokenizer_bytes;
const TokenizerType k_tokenizer_bytes = {
    .name = "bytes",
    .doc = "one token per byte and one that ends documents (257 tokens); nothing to train",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<BytesConfig>();
    },
    .make = [](const Configurable&, TextCorpus) -> std::unique_ptr<Tokenizer> {
      return std::make_unique<BytesTokenizer>();
    },
    .add_to = nullptr,
    .deserialize = deserialize,
};

}  // namespace sluice
