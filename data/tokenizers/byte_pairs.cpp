#include "data/tokenizers/byte_pairs.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// Longer tokens are not looked up whole: making sure of all would take time that grows with their
/// length, and hardly a piece is one.
constexpr size_t kLongestWhole = 128;

uint64_t pair_of(int32_t left, int32_t right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32U) | static_cast<uint32_t>(right);
}

/// Spreads the bits of `pair` (the finaliser of MurmurHash3).
uint64_t spread(uint64_t pair) {
  pair ^= pair >> 33U;
  pair *= 0xFF51AFD7ED558CCDULL;
  pair ^= pair >> 33U;
  pair *= 0xC4CEB9FE1A85EC53ULL;
  return pair ^ (pair >> 33U);
}

/// At most half full.
size_t table_size(size_t entries) { return std::bit_ceil(2 * entries + 1); }

constexpr auto kComesLater = [](const auto& a, const auto& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
};

}  // namespace

BytePairs::BytePairs(std::span<const std::string> tokens, std::span<const int32_t> pieces,
                     const std::array<int32_t, 256>& byte_ids, std::span<const Merge> merges,
                     bool whole_first)
    : tokens_(tokens),
      byte_ids_(byte_ids),
      entries_(table_size(merges.size())),
      whole_(table_size(pieces.size()), -1) {
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    add(merges[rank], static_cast<int32_t>(rank));
  }
  Scratch scratch;
  for (const int32_t id : pieces) {
    const std::string& bytes = tokens[static_cast<size_t>(id)];
    if (!whole_first) {
      const bool is_known = std::ranges::all_of(
          bytes, [&](unsigned char byte) { return byte_ids_[byte] >= 0; });
      if (!is_known || bytes.size() > kLongestWhole) continue;
      merge(bytes, scratch);
      const auto& first = scratch.symbols.front();
      if (first.next >= 0 || first.id != id) continue;
    }
    add_whole(id);
  }
}

void BytePairs::add(const Merge& merge, int32_t rank) {
  const uint64_t pair = pair_of(merge.left, merge.right);
  const size_t mask = entries_.size() - 1;
  size_t at = spread(pair) & mask;
  while (entries_[at].rank >= 0 && entries_[at].pair != pair) at = (at + 1) & mask;
  entries_[at] = {pair, rank, merge.result};
}

const BytePairs::Entry* BytePairs::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  const size_t mask = entries_.size() - 1;
  for (size_t at = spread(pair) & mask; entries_[at].rank >= 0; at = (at + 1) & mask) {
    if (entries_[at].pair == pair) return &entries_[at];
  }
  return nullptr;
}

void BytePairs::add_whole(int32_t id) {
  const size_t mask = whole_.size() - 1;
  size_t at = std::hash<std::string_view>()(tokens_[static_cast<size_t>(id)]) & mask;
  while (whole_[at] >= 0) at = (at + 1) & mask;
  whole_[at] = id;
}

int32_t BytePairs::find_whole(std::string_view piece) const {
  const size_t mask = whole_.size() - 1;
  for (size_t at = std::hash<std::string_view>()(piece) & mask; whole_[at] >= 0;
       at = (at + 1) & mask) {
    if (tokens_[static_cast<size_t>(whole_[at])] == piece) return whole_[at];
  }
  return -1;
}

/// Puts the merge of the symbols at and behind `at` on the heap, if there is one.
void BytePairs::consider(int32_t at, Scratch& scratch) const {
  const auto& symbol = scratch.symbols[static_cast<size_t>(at)];
  if (symbol.next < 0) return;
  const int32_t right = scratch.symbols[static_cast<size_t>(symbol.next)].id;
  const Entry* entry = find(symbol.id, right);
  if (entry == nullptr) return;
  scratch.heap.push_back({entry->rank, at, symbol.id, right, entry->result});
  std::ranges::push_heap(scratch.heap, kComesLater);
}

/// Leaves the tokens in scratch.symbols, linked from the first on.
void BytePairs::merge(std::string_view piece, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  const auto last = static_cast<int32_t>(piece.size()) - 1;
  symbols.resize(piece.size());
  for (int32_t i = 0; i <= last; ++i) {
    const auto byte = static_cast<unsigned char>(piece[static_cast<size_t>(i)]);
    SLUICE_CHECK(DataError, byte_ids_[byte] >= 0,
                 "the tokenizer has no token for the byte 0x{:02X} of the text", byte);
    symbols[static_cast<size_t>(i)] = {byte_ids_[byte], i - 1, i < last ? i + 1 : -1};
  }
  scratch.heap.clear();
  for (int32_t i = 0; i < last; ++i) consider(i, scratch);
  while (!scratch.heap.empty()) {
    std::ranges::pop_heap(scratch.heap, kComesLater);
    const auto best = scratch.heap.back();
    scratch.heap.pop_back();
    auto& left = symbols[static_cast<size_t>(best.at)];
    if (left.id != best.left || left.next < 0) continue;
    auto& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != best.right) continue;  // one of the two was merged since
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.at;
    if (left.previous >= 0) consider(left.previous, scratch);
    consider(best.at, scratch);
  }
}

void BytePairs::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (const int32_t whole = find_whole(piece); whole >= 0) {
    ids.push_back(whole);
    return;
  }
  SLUICE_CHECK(DataError, piece.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()),
               "a text has {} bytes without a cut, allowed at most {}", piece.size(),
               std::numeric_limits<int32_t>::max());
  merge(piece, scratch);
  for (int32_t at = 0; at >= 0; at = scratch.symbols[static_cast<size_t>(at)].next) {
    ids.push_back(scratch.symbols[static_cast<size_t>(at)].id);
  }
}

}  // namespace sluice
