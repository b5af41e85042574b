#pragma once
// tokenizer.json files made by hand: every byte has a token (its own number as id), then the tokens that
// merges make.

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizers/byte_characters.h"

namespace sluice::testing {

using nlohmann::json;

/// Pre-tokenizers as published files have them.
inline json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}
inline json split(const std::string& regex, const std::string& behavior = "Isolated",
                  bool invert = false) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", regex}}},
          {"behavior", behavior},
          {"invert", invert}};
}
inline json sequence(const char* key, std::vector<json> steps) {
  return {{"type", "Sequence"}, {key, std::move(steps)}};
}

inline json added(int64_t id, const std::string& content, bool special) {
  return {{"id", id},         {"content", content}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// Merges of bytes, each pair of which is one token more: {{"l", "o"}, {"lo", "w"}} adds 256 "lo" and
/// 257 "low". The end of documents, special, comes last.
inline json byte_level_file(const std::vector<std::pair<std::string, std::string>>& merges) {
  json vocabulary = json::object();
  for (size_t byte = 0; byte < 256; ++byte) vocabulary[byte_characters()[byte]] = byte;
  json list = json::array();
  size_t next = 256;
  for (const auto& [left, right] : merges) {
    const std::string a = spelled_bytes(left);
    const std::string b = spelled_bytes(right);
    list.push_back(json::array({a, b}));
    if (!vocabulary.contains(a + b)) vocabulary[a + b] = next++;
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", json::array({added(static_cast<int64_t>(next), "<|endoftext|>", true)})},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level(true)},
          {"post_processor", byte_level(true)},
          {"decoder", byte_level(true)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", list}}}};
}

}  // namespace sluice::testing
