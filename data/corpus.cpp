#include "data/corpus.h"

#include <numeric>

#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "data/batch.h"

namespace sluice {
namespace {

// Text read before it is encoded together: enough documents to keep all threads busy.
constexpr int64_t kBlockBytes = int64_t{8} << 20;

/// Collects documents and encodes them block by block; the order of documents is kept.
class CorpusBuilder {
 public:
  CorpusBuilder(const Tokenizer& tokenizer, const std::string& name)
      : tokenizer_(tokenizer), name_(name), corpus_(tokenizer.vocab_size()) {}

  void add_text(const DocumentView& document) {
    texts_.push_back({std::string(document.prompt), std::string(document.text)});
    pending_bytes_ += static_cast<int64_t>(document.prompt.size() + document.text.size());
    if (pending_bytes_ >= kBlockBytes) encode_pending();
  }

  void add_tokens(const DocumentView& document) {
    std::vector<int32_t> ids(document.tokens.begin(), document.tokens.end());
    int64_t bytes = 0;
    for (const int32_t id : ids) {
      SLUICE_CHECK(DataError, id >= 0 && id < tokenizer_.vocab_size(),
                   "{}: token id {} in document {} is outside the tokenizer's vocabulary of {}",
                   name_, id, num_read_, tokenizer_.vocab_size());
      bytes += static_cast<int64_t>(tokenizer_.token_bytes(id).size());
    }
    ++num_read_;
    add(std::move(ids), bytes, 0);
  }

  Corpus finish() {
    encode_pending();
    SLUICE_CHECK(DataError, corpus_.num_documents() > 0, "{}: there is no text in it", name_);
    return std::move(corpus_);
  }

 private:
  struct Text {
    std::string prompt;
    std::string text;
  };
  struct Encoded {
    std::vector<int32_t> ids;
    int64_t prompt_tokens = 0;
  };

  void encode_pending() {
    std::vector<Encoded> encoded(texts_.size());
    parallel_for(static_cast<int64_t>(texts_.size()), [&](int64_t i) {
      encoded[i].ids = tokenizer_.encode(texts_[i].prompt);
      encoded[i].prompt_tokens = static_cast<int64_t>(encoded[i].ids.size());
      const std::vector<int32_t> ids = tokenizer_.encode(texts_[i].text);
      encoded[i].ids.insert(encoded[i].ids.end(), ids.begin(), ids.end());
    });
    for (size_t i = 0; i < texts_.size(); ++i) {
      add(std::move(encoded[i].ids),
          static_cast<int64_t>(texts_[i].prompt.size() + texts_[i].text.size()),
          encoded[i].prompt_tokens);
    }
    texts_.clear();
    pending_bytes_ = 0;
  }

  void add(std::vector<int32_t> ids, int64_t bytes, int64_t learned_from) {
    if (ids.empty()) return;
    if (const auto end_of_document = tokenizer_.eos_id()) ids.push_back(*end_of_document);
    corpus_.add_document(ids, bytes, learned_from);
  }

  const Tokenizer& tokenizer_;
  const std::string& name_;
  Corpus corpus_;
  std::vector<Text> texts_;
  int64_t pending_bytes_ = 0;
  int64_t num_read_ = 0;
};

}  // namespace

int64_t Corpus::num_bytes() const {
  return std::accumulate(document_bytes.begin(), document_bytes.end(), int64_t{0});
}

int32_t Corpus::target(int64_t document, int64_t index) const {
  if (index == 0 || index < loss_begin[document]) return kIgnoredTarget;
  return tokens[document_offsets[document] + index];
}

void Corpus::add_document(std::span<const int32_t> ids, int64_t bytes, int64_t learned_from) {
  if (ids.empty()) return;
  tokens.append(ids);
  document_offsets.push_back(tokens.size());
  document_bytes.push_back(bytes);
  loss_begin.push_back(learned_from);
}

void Corpus::add_part(const Corpus& from, int64_t document, int64_t begin, int64_t end,
                      int64_t bytes) {
  tokens.append(from.tokens, from.document_offsets[document] + begin, end - begin);
  document_offsets.push_back(tokens.size());
  document_bytes.push_back(bytes);
  loss_begin.push_back(std::max<int64_t>(0, from.loss_begin[document] - begin));
}

void Corpus::add_to(Fingerprint& fingerprint) const {
  std::visit([&](const auto& ids) { fingerprint.add(ids); }, tokens.array());
  fingerprint.add(document_offsets);
  fingerprint.add(loss_begin);
}

Corpus encode_source(const Source& source, const Tokenizer& tokenizer, const std::string& name) {
  CorpusBuilder builder(tokenizer, name);
  source.read([&](const DocumentView& document) {
    if (source.holds_tokens()) {
      builder.add_tokens(document);
    } else {
      builder.add_text(document);
    }
  });
  return builder.finish();
}

}  // namespace sluice
