#include <sentencepiece_trainer.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "data/tokenizers/segments.h"
#include "data/tokenizers/sentencepiece.h"

namespace sluice {
namespace {

constexpr int64_t kSpecialPieces = 2;  // unknown and end of document
constexpr int64_t kBytePieces = 256;

class SentencesOf final : public sentencepiece::SentenceIterator {
 public:
  explicit SentencesOf(const std::vector<std::string>& sentences) : sentences_(sentences) {}
  bool done() const override { return next_ == sentences_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return sentences_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& sentences_;
  size_t next_ = 0;
};

/// Adds `segment` without the characters that the trainer keeps for itself (tab, NUL, U+2581 for a
/// space, U+2585 for an unknown): it would drop or misread the whole line. They are always encoded
/// as bytes.
void add_sentences(std::string_view segment, std::vector<std::string>& sentences) {
  constexpr std::array<std::string_view, 4> kReserved = {
      std::string_view("\t"), std::string_view("\0", 1), "\xE2\x96\x81", "\xE2\x96\x85"};
  while (!segment.empty()) {
    size_t cut = std::string_view::npos;
    size_t skip = 0;
    for (const std::string_view reserved : kReserved) {
      const size_t found = segment.find(reserved);
      if (found < cut) {
        cut = found;
        skip = reserved.size();
      }
    }
    if (cut > 0) sentences.emplace_back(segment.substr(0, cut));
    if (cut == std::string_view::npos) return;
    segment.remove_prefix(cut + skip);
  }
}

std::vector<std::string> sample_sentences(TextCorpus text, int64_t max_bytes) {
  int64_t total_bytes = 0;
  text([&](std::string_view document) { total_bytes += static_cast<int64_t>(document.size()); });
  const double share = total_bytes <= max_bytes
                           ? 1.0
                           : static_cast<double>(max_bytes) / static_cast<double>(total_bytes);
  // Keyed by nothing of the run: the tokenizer must not change with the seed.
  const RandomKey key{.purpose = RandomPurpose::tokenizer_sample};
  std::vector<std::string> sentences;
  uint64_t index = 0;
  text([&](std::string_view document) {
    for_each_segment(document, [&](std::string_view segment) {
      if (uniform(key, 0, index++) < share) add_sentences(segment, sentences);
    });
  });
  return sentences;
}

std::string exact(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

}  // namespace

void SentencePieceConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kAlgorithms = {"bpe", "unigram"};
  // Two special pieces, 256 bytes and at least one learned character; ids must fit the token store.
  v.integer({"vocab_size", "number of tokens, the 256 byte tokens included"}, vocab_size,
            {.min = kSpecialPieces + kBytePieces + 1, .max = 1'000'000});
  v.word({"algorithm", "bpe (merges) or unigram (likelihood, about six times slower to train)"},
         algorithm, kAlgorithms);
  v.integer({"training_bytes", "bytes of text to train on at most, sampled by line"},
            training_bytes, {.min = 1});
  v.number({"character_coverage", "share of characters that get a token; the rest become bytes"},
           character_coverage, {.min = 0.98, .max = 1.0});
}

std::string train_sentencepiece(const SentencePieceConfig& config, TextCorpus text) {
  const std::vector<std::string> sentences = sample_sentences(text, config.training_bytes);
  SLUICE_CHECK(DataError, !sentences.empty(), "tokenizer: there is no text to train on");
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", config.algorithm},
      {"vocab_size", std::to_string(config.vocab_size)},
      {"character_coverage", exact(config.character_coverage)},
      // Lossless: see Note [Lossless SentencePiece].
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"byte_fallback", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      // Deterministic: the unigram trainer's sums depend on its number of threads.
      {"num_threads", "1"},
      {"shuffle_input_sentence", "false"},
      {"input_sentence_size", "0"},
      {"max_sentence_length", std::to_string(kMaxSegmentBytes)},
      // Fewer pieces than asked for are our error to report, with the number that is possible.
      {"hard_vocab_limit", "false"},
      {"minloglevel", "3"},  // errors come back as a status; the log would repeat them
  };
  SentencesOf iterator(sentences);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  const std::string reason = status.ToString();
  // The one failure that a recipe can cause.
  SLUICE_CHECK(DataError, reason.find("smaller than required_chars") == std::string::npos,
               "tokenizer: vocab_size {} has no room for the text's characters at "
               "character_coverage {}; raise the first or lower the second",
               config.vocab_size, config.character_coverage);
  SLUICE_CHECK(DataError, status.ok(), "tokenizer: SentencePiece cannot train {}: {}",
               config.algorithm, reason);
  const int64_t pieces = load_sentencepiece(model)->vocab_size();
  SLUICE_CHECK(
      DataError, pieces == config.vocab_size,
      "tokenizer: vocab_size is {}, but the text has only enough for {}; set it to at most "
      "{}",
      config.vocab_size, pieces, pieces);
  return model;
}

}  // namespace sluice
