#pragma once
// A tokenizer from a file of another program.

#include <memory>
#include <string>

#include "data/tokenizer.h"

namespace sluice {

/// Reads a SentencePiece model, a tokenizer.json (tokenizer_json.h) or the vocabulary of a llama2.c
/// checkpoint (llama2c.h); what it is shows in its bytes. Throws ConfigError when there is no such file, DataError when it is none of them.
[[nodiscard]] std::unique_ptr<Tokenizer> load_tokenizer_file(const std::string& path);

}  // namespace sluice
