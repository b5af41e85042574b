#pragma once
// Reads a source that is described by its keys.

#include <string>
#include <vector>

#include "data/source.h"
#include "tests/data/field_setter.h"

namespace sluice::testing {

/// Its documents with text: "prompt|text" where there is a prompt. Empty ones are left out.
inline std::vector<std::string> texts_of(const FieldValues& options) {
  std::vector<std::string> texts;
  make_source(make_config<SourceConfig>(options))->read([&](const DocumentView& document) {
    std::string text(document.prompt);
    if (!text.empty()) text += '|';
    text += document.text;
    if (!text.empty()) texts.push_back(text);
  });
  return texts;
}

/// Its documents with tokens.
inline std::vector<std::vector<int32_t>> tokens_of(const FieldValues& options) {
  std::vector<std::vector<int32_t>> documents;
  make_source(make_config<SourceConfig>(options))->read([&](const DocumentView& document) {
    if (!document.tokens.empty()) {
      documents.emplace_back(document.tokens.begin(), document.tokens.end());
    }
  });
  return documents;
}

inline uint64_t fingerprint_of(const FieldValues& options) {
  Fingerprint fingerprint;
  make_source(make_config<SourceConfig>(options))->add_to(fingerprint);
  return fingerprint.value();
}

}  // namespace sluice::testing
