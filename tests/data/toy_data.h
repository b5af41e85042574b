#pragma once
// Small data sets of known tokens.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.h"
#include "tests/data/field_setter.h"

namespace sluice::testing {

/// The bytes tokenizer: 257 tokens, 256 ends documents.
inline std::shared_ptr<const Tokenizer> bytes_tokenizer() {
  return deserialize_tokenizer("bytes", "bytes 257");
}

/// A corpus of documents without end-of-document tokens; each token stands for one byte.
inline Corpus corpus_of(const std::vector<std::vector<int32_t>>& documents, int32_t domain = 0) {
  Corpus corpus(1000);
  corpus.domain = domain;
  for (const auto& document : documents) {
    corpus.add_document(document, static_cast<int64_t>(document.size()), 0);
  }
  return corpus;
}

/// `count` documents of the given lengths in turn; every token is different.
inline Corpus counting_corpus(int64_t count, const std::vector<int64_t>& lengths,
                              int32_t domain = 0) {
  Corpus corpus(1'000'000);
  corpus.domain = domain;
  int32_t token = 0;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<int32_t> document(static_cast<size_t>(lengths[i % lengths.size()]));
    for (int32_t& id : document) id = token++;
    corpus.add_document(document, static_cast<int64_t>(document.size()), 0);
  }
  return corpus;
}

/// A data set of these corpora, one domain each, named "0", "1", ...
inline Dataset dataset_of(std::vector<Corpus> train, std::vector<Corpus> held_out = {}) {
  Dataset data;
  data.tokenizer = bytes_tokenizer();
  data.train = std::move(train);
  data.held_out = std::move(held_out);
  Fingerprint fingerprint;
  int32_t domains = 0;
  for (const auto* corpora : {&data.train, &data.held_out}) {
    for (const Corpus& corpus : *corpora) {
      domains = std::max(domains, corpus.domain + 1);
      corpus.add_to(fingerprint);
    }
  }
  for (int32_t i = 0; i < domains; ++i) data.domains.push_back(std::to_string(i));
  data.token_bytes.assign(1'000'000, 1);
  data.fingerprint = fingerprint.value();
  return data;
}

inline std::shared_ptr<Configurable> source(const FieldValues& values) {
  return std::make_shared<SourceConfig>(make_config<SourceConfig>(values));
}

/// A config with the bytes tokenizer.
inline DataConfig bytes_config(SourceConfigs sources) {
  DataConfig config;
  for (const Choice& choice : tokenizer_choices()) {
    if (choice.name == "bytes") config.tokenizer = {"bytes", choice.make_config()};
  }
  config.sources = std::move(sources);
  return config;
}

}  // namespace sluice::testing
