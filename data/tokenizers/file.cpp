// A tokenizer from a file of any kind: its bytes tell.

#include "data/tokenizers/file.h"

#include "autograd/support/error.h"
#include "data/files.h"
#include "data/tokenizers/llama2c.h"
#include "data/tokenizers/sentencepiece.h"
#include "data/tokenizers/tokenizer_json.h"

namespace sluice {
namespace {

struct FileTokenizerConfig final : Configurable {
  std::string path;

  void fields(FieldVisitor& v) override {
    v.path({.key = "path",
            .doc = "a SentencePiece .model file, a tokenizer.json, or a llama2.c tokenizer.bin",
            .required = true},
           path);
  }
};

std::unique_ptr<Tokenizer> make(const Configurable& config, TextCorpus) {
  return load_tokenizer_file(dynamic_cast<const FileTokenizerConfig&>(config).path);
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer_file(const std::string& path) {
  const std::string bytes = read_input_file(path);
  // A brace before anything but a NUL: llama2.c's files begin with a number below 2^24.
  if (bytes.starts_with('{') && !bytes.starts_with(std::string_view("{\0", 2))) {
    return load_tokenizer_json(path);
  }
  return with_context([&] { return path; },
                      [&] {
                        const auto converted = sentencepiece_of_llama2c(bytes);
                        return load_sentencepiece(converted ? *converted : bytes);
                      });
}

extern const TokenizerType k_tokenizer_file;
const TokenizerType k_tokenizer_file = {
    .name = "file",
    .doc = "a SentencePiece model, a tokenizer.json or the vocabulary of a llama2.c checkpoint",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<FileTokenizerConfig>();
    },
    .make = make,
    .add_to = nullptr,
    .deserialize = nullptr,
};

}  // namespace sluice
