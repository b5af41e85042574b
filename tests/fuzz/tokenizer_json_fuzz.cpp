#include "data/tokenizer.h"

#include "tests/fuzz/target.h"

SLUICE_FUZZ_TARGET(tokenizer_json) {
  const std::string stored = "{\"special_tokens\": \"text\"}\n" + std::string(bytes);
  const auto tokenizer = sluice::deserialize_tokenizer("tokenizer_json", stored);
  constexpr std::string_view kText =
      "It's  a low\n\n 1234 \xE6\xBC\xA2\xF0\x9F\x98\x80 e\xCC\x81<|endoftext|>\xFF.  ";
  const auto ids = tokenizer->encode(kText);
  SLUICE_INTERNAL_CHECK(!tokenizer->is_lossless() || tokenizer->decode(ids) == kText,
                        "a lossless tokenizer lost something");
}
