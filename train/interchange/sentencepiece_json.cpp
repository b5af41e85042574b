#include "train/interchange/sentencepiece_json.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
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

/// Cuts out what the expression matches.
ordered_json split(std::string_view expression) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", expression}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

/// The user's own pieces, of which a text's first and then longest are found before it is merged.
std::vector<std::string_view> user_pieces(const SentencePieceVocabulary& vocabulary) {
  std::vector<std::string_view> pieces;
  for (const Piece& piece : vocabulary.pieces) {
    if (piece.kind == Kind::user_defined) pieces.emplace_back(piece.text);
  }
  std::ranges::stable_sort(pieces, std::ranges::greater{}, &std::string_view::size);
  return pieces;
}

std::string any_of(std::span<const std::string_view> texts) {
  constexpr std::string_view kMeaning = R"(\^$.|?*+()[]{}-#&~/)";
  std::string expression;
  for (const std::string_view text : texts) {
    if (!expression.empty()) expression += '|';
    for (const char c : text) {
      if (kMeaning.find(c) != std::string_view::npos) expression += '\\';
      expression += c;
    }
  }
  return expression;
}

ordered_json pre_tokenizer(const SentencePieceVocabulary& vocabulary, bool by_lines) {
  ordered_json steps = ordered_json::array();
  if (by_lines) steps.push_back(split("[^\\n]*\\n+|[^\\n]+"));
  const auto pieces = user_pieces(vocabulary);
  if (!pieces.empty()) steps.push_back(split(any_of(pieces)));
  if (steps.empty()) return nullptr;
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

/// What stands beside texts.
ordered_json added_tokens(const SentencePieceVocabulary& vocabulary) {
  ordered_json added = ordered_json::array();
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const Piece& piece = vocabulary.pieces[id];
    if (piece.kind != Kind::control && piece.kind != Kind::unknown) continue;
    ordered_json token = {{"id", id}, {"content", piece.text}};
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) token[flag] = false;
    token["special"] = true;
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
          {"ignore_merges", !user_pieces(vocabulary).empty()},  // they are words of their own
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
          {"pre_tokenizer", pre_tokenizer(vocabulary, by_lines)},
          {"post_processor", nullptr},
          {"decoder", decoder(vocabulary)},
          {"model", vocabulary.is_bpe ? byte_pairs(vocabulary) : unigram(vocabulary)}};
}

}  // namespace sluice
