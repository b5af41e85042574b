#pragma once
// Byte-pair encoding (Sennrich et al. 2016) of bytes (Radford et al. 2019): a piece of text begins as
// its bytes, and of all neighbours that may merge those of the lowest rank do, the leftmost of equals
// first, until none may.
//
// A piece of n bytes takes O(n log n). Most pieces of real text are one token; whether a token's bytes
// merge into it is found out once, when the tables are made, so that such a piece costs one look.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class BytePairs {
 public:
  /// The merge of two tokens into a third; its rank is its place.
  struct Merge {
    int32_t left = 0;
    int32_t right = 0;
    int32_t result = 0;
  };
  /// What encoding needs besides: one for each thread.
  class Scratch {
    friend class BytePairs;
    struct Symbol {
      int32_t id = -1;  // -1: merged into the one before
      int32_t previous = -1;
      int32_t next = -1;
    };
    struct Candidate {
      int32_t rank = 0;
      int32_t at = 0;  // of the left symbol
      int32_t left = 0;
      int32_t right = 0;
      int32_t result = 0;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// `tokens[id]` are the bytes of a token; they are kept by reference. `pieces` are the ids that a
  /// piece may become, of different bytes each. `byte_ids` are -1 for bytes that no token stands for. Of
  /// two merges of one pair the later counts. `whole_first`: a piece that is a token becomes that token
  /// without merging (Llama 3's ignore_merges).
  BytePairs(std::span<const std::string> tokens, std::span<const int32_t> pieces,
            const std::array<int32_t, 256>& byte_ids, std::span<const Merge> merges,
            bool whole_first);

  /// Appends the tokens of `piece`. Throws DataError for a byte that no token stands for.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct Entry {
    uint64_t pair = 0;
    int32_t rank = -1;  // -1: free
    int32_t result = 0;
  };
  [[nodiscard]] const Entry* find(int32_t left, int32_t right) const;
  [[nodiscard]] int32_t find_whole(std::string_view piece) const;
  void add(const Merge& merge, int32_t rank);
  void add_whole(int32_t id);
  void consider(int32_t at, Scratch& scratch) const;
  void merge(std::string_view piece, Scratch& scratch) const;

  std::span<const std::string> tokens_;
  std::array<int32_t, 256> byte_ids_;
  std::vector<Entry> entries_;  // a table with open addresses; its size is a power of two
  std::vector<int32_t> whole_;  // the same, of tokens by their bytes; -1: free
};

}  // namespace sluice
