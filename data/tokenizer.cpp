#include "data/tokenizer.h"

#include <array>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"
#include "data/utf8.h"

namespace sluice {

#define SLUICE_TOKENIZER(name) extern const TokenizerType k_tokenizer_##name;
#include "data/tokenizers.def"
#undef SLUICE_TOKENIZER

namespace {

constexpr auto kNames = std::to_array<std::string_view>({
#define SLUICE_TOKENIZER(name) #name,
#include "data/tokenizers.def"
#undef SLUICE_TOKENIZER
});
static_assert(all_distinct(kNames), "two tokenizers share a name");

constexpr auto kTypes = std::to_array<const TokenizerType*>({
#define SLUICE_TOKENIZER(name) &k_tokenizer_##name,
#include "data/tokenizers.def"
#undef SLUICE_TOKENIZER
});

Registry<TokenizerType> registry() { return {"tokenizer", kTypes}; }

}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) text += token_bytes(id);
  return text;
}

std::string StreamDecoder::push(int32_t id) {
  held_ += tokenizer_.token_bytes(id);
  const size_t complete = complete_utf8_prefix(held_);
  std::string text = replace_invalid_utf8(std::string_view(held_).substr(0, complete));
  held_.erase(0, complete);
  return text;
}

std::string StreamDecoder::flush() {
  std::string text = replace_invalid_utf8(held_);
  held_.clear();
  return text;
}

std::span<const Choice> tokenizer_choices() {
  static const std::vector<Choice> choices = [] {
    std::vector<Choice> result;
    for (const TokenizerType* type : kTypes) {
      result.push_back({type->name, type->doc, type->make_config});
    }
    return result;
  }();
  return choices;
}

std::unique_ptr<Tokenizer> make_tokenizer(const Tagged& choice, TextCorpus text) {
  const TokenizerType& type = registry().at(choice.type);
  SLUICE_INTERNAL_CHECK(choice.config != nullptr, "tokenizer {} has no config", choice.type);
  return type.make(*choice.config, text);
}

bool add_tokenizer_training(const Tagged& choice, Fingerprint& fingerprint) {
  const TokenizerType& type = registry().at(choice.type);
  if (type.add_to == nullptr) return false;
  fingerprint.add(type.name);
  type.add_to(*choice.config, fingerprint);
  return true;
}

std::unique_ptr<Tokenizer> deserialize_tokenizer(std::string_view kind, std::string_view bytes) {
  const TokenizerType* type = registry().find(kind);
  SLUICE_CHECK(DataError, type != nullptr && type->deserialize != nullptr,
               "stored tokenizer is of kind \"{}\", which this version does not know", kind);
  return type->deserialize(bytes);
}

std::vector<int32_t> token_byte_lengths(const Tokenizer& tokenizer) {
  std::vector<int32_t> lengths(static_cast<size_t>(tokenizer.vocab_size()));
  for (size_t id = 0; id < lengths.size(); ++id) {
    lengths[id] = static_cast<int32_t>(tokenizer.token_bytes(static_cast<int32_t>(id)).size());
  }
  return lengths;
}

}  // namespace sluice
