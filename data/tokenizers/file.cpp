// A tokenizer from a file: a SentencePiece model, ours or that of a published checkpoint.

#include "autograd/support/error.h"
#include "data/files.h"
#include "data/tokenizers/sentencepiece.h"

namespace sluice {
namespace {

struct FileTokenizerConfig final : Configurable {
  std::string path;

  void fields(FieldVisitor& v) override {
    v.path({.key = "path", .doc = "a SentencePiece .model file", .required = true}, path);
  }
};

std::unique_ptr<Tokenizer> make(const Configurable& config, TextCorpus) {
  const std::string& path = dynamic_cast<const FileTokenizerConfig&>(config).path;
  const std::string model = read_input_file(path);
  return with_context([&] { return path; }, [&] { return load_sentencepiece(model); });
}

}  // namespace

extern const TokenizerType k_tokenizer_file;
const TokenizerType k_tokenizer_file = {
    .name = "file",
    .doc = "a SentencePiece model from a file",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<FileTokenizerConfig>();
    },
    .make = make,
    .add_to = nullptr,
    .deserialize = nullptr,
};

}  // namespace sluice
