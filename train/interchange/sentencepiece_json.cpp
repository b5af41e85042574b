#include "train/interchange/sentencepiece_json.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/support/error.h"
#include "data/utf8.h"

namespace sluice {
namespace {

using nlohmann::ordered_json;
using Kind = SentencePieceVocabulary::Kind;
using Piece = SentencePieceVocabulary::Piece;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581
/// How far below every piece of text the pieces stand that no text may match.
constexpr float kScoreOfNoText = 1000.0f;

bool is_text(const Piece& piece) {
  return piece.kind == Kind::normal || piece.kind == Kind::user_defined;
}

ordered_json replace(std::string_view what, std::string_view by) {
  return {{"type", "Replace"}, {"pattern", {{"String", what}}}, {"content", by}};
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    for (size_t k = 0; k < 3; ++k) {
      three = three << 8U | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0U);
    }
    for (size_t k = 0; k < 4; ++k) {
      text += i + k > bytes.size() ? '=' : kDigits[three >> (18 - 6 * k) & 63U];
    }
  }
  return text;
}

ordered_json normalizer(const SentencePieceVocabulary& vocabulary) {
  ordered_json steps = ordered_json::array();
  if (!vocabulary.rules.empty()) {
    steps.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", base64(vocabulary.rules)}});
  }
  if (vocabulary.removes_extra_spaces) {
    steps.push_back({{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}});
    steps.push_back(
        {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}});
  }
  if (vocabulary.adds_space_before) {
    steps.push_back({{"type", "Prepend"}, {"prepend", kSpaceSymbol}});
  }
  steps.push_back(replace(" ", kSpaceSymbol));
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

ordered_json decoder(const SentencePieceVocabulary& vocabulary) {
  ordered_json steps = ordered_json::array();
  steps.push_back(replace(kSpaceSymbol, " "));
  steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (vocabulary.adds_space_before) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", steps}};
}

ordered_json line_cutter() {
  return {{"type", "Split"},
          {"pattern", {{"Regex", "[^\\n]*\\n+|[^\\n]+"}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

/// A piece as it stands in texts.
std::string with_spaces(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const bool is_space = piece.starts_with(kSpaceSymbol);
    text.push_back(is_space ? ' ' : piece.front());
    piece.remove_prefix(is_space ? kSpaceSymbol.size() : 1);
  }
  return text;
}

/// Pieces that are found in a text before it is cut, and those that stand beside texts.
ordered_json added_tokens(const SentencePieceVocabulary& vocabulary) {
  ordered_json added = ordered_json::array();
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const Piece& piece = vocabulary.pieces[id];
    const bool is_special = piece.kind == Kind::control || piece.kind == Kind::unknown;
    if (!is_special && piece.kind != Kind::user_defined) continue;
    const std::string content = is_special ? piece.text : with_spaces(piece.text);
    ordered_json token = {{"id", id}, {"content", content}};
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) token[flag] = false;
    token["special"] = is_special;
    added.push_back(std::move(token));
  }
  return added;
}

struct Merge {
  std::string_view left;
  std::string_view right;
  float score;
};

/// In the order in which they are made.
std::vector<Merge> merges_of(const SentencePieceVocabulary& vocabulary) {
  std::unordered_map<std::string_view, bool> known;
  for (const Piece& piece : vocabulary.pieces) {
    if (is_text(piece)) known.emplace(piece.text, true);
  }
  std::vector<Merge> merges;
  for (const Piece& piece : vocabulary.pieces) {
    if (!is_text(piece)) continue;
    const std::string_view text = piece.text;
    for (size_t cut = text.size(); cut-- > 1;) {
      if (is_utf8_continuation(text[cut])) continue;
      const Merge merge{text.substr(0, cut), text.substr(cut), piece.score};
      if (known.contains(merge.left) && known.contains(merge.right)) merges.push_back(merge);
    }
  }
  std::ranges::stable_sort(merges, std::ranges::greater{}, &Merge::score);
  return merges;
}

std::string unknown_piece(const SentencePieceVocabulary& vocabulary) {
  const auto found = std::ranges::find(vocabulary.pieces, Kind::unknown, &Piece::kind);
  return found == vocabulary.pieces.end() ? std::string() : found->text;
}

bool falls_back_to_bytes(const SentencePieceVocabulary& vocabulary) {
  return std::ranges::count(vocabulary.pieces, Kind::byte, &Piece::kind) == 256;
}

ordered_json byte_pairs(const SentencePieceVocabulary& vocabulary) {
  ordered_json::object_t ids;  // looking each key up first would take a square of time
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    ids.emplace_back(vocabulary.pieces[id].text, id);
  }
  ordered_json merges = ordered_json::array();
  for (const Merge& merge : merges_of(vocabulary)) {
    merges.push_back(std::string(merge.left) + " " + std::string(merge.right));
  }
  const std::string unknown = unknown_piece(vocabulary);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unknown.empty() ? ordered_json() : ordered_json(unknown)},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", true},
          {"byte_fallback", falls_back_to_bytes(vocabulary)},
          {"ignore_merges", false},
          {"vocab", std::move(ids)},
          {"merges", std::move(merges)}};
}

ordered_json unigram(const SentencePieceVocabulary& vocabulary) {
  float least = 0.0f;
  ordered_json unknown;
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const Piece& piece = vocabulary.pieces[id];
    if (is_text(piece)) least = std::min(least, piece.score);
    if (piece.kind == Kind::unknown) unknown = id;
  }
  ordered_json pieces = ordered_json::array();
  for (const Piece& piece : vocabulary.pieces) {
    const float score = is_text(piece) ? piece.score : least - kScoreOfNoText;
    pieces.push_back(ordered_json::array({piece.text, static_cast<double>(score)}));
  }
  return {{"type", "Unigram"},
          {"unk_id", unknown},
          {"vocab", std::move(pieces)},
          {"byte_fallback", falls_back_to_bytes(vocabulary)}};
}

}  // namespace

ordered_json sentencepiece_json(const SentencePieceVocabulary& vocabulary, bool by_lines) {
  SLUICE_CHECK(CheckpointError, vocabulary.is_bpe || vocabulary.is_unigram,
               "its SentencePiece model is one of words or characters, allowed bpe or unigram");
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    SLUICE_CHECK(CheckpointError, !find_invalid_utf8(vocabulary.pieces[id].text),
                 "piece {} of its SentencePiece model is no valid UTF-8", id);
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens(vocabulary)},
          {"normalizer", normalizer(vocabulary)},
          {"pre_tokenizer", by_lines ? line_cutter() : ordered_json()},
          {"post_processor", nullptr},
          {"decoder", decoder(vocabulary)},
          {"model", vocabulary.is_bpe ? byte_pairs(vocabulary) : unigram(vocabulary)}};
}

}  // namespace sluice
