#pragma once
// Tokens that stand beside a vocabulary's own: found in a text as they are, before anything cuts it.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "autograd/support/function_ref.h"

namespace sluice {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool is_special = false;     // begins or ends something; no text
  bool is_normalized = false;  // found in the normalised text, else in the original one
  bool takes_space_before = false;
  bool takes_space_behind = false;
};

/// Finds the leftmost of these tokens, and of those that begin there the longest, again and again.
/// Time is linear in the text, times the longest token in the worst case.
class AddedTokens {
 public:
  /// `tokens` are of different contents, none empty.
  explicit AddedTokens(std::vector<AddedToken> tokens = {});

  [[nodiscard]] bool empty() const { return tokens_.empty(); }
  /// False when a token swallows white space beside it.
  [[nodiscard]] bool is_lossless() const;
  /// Calls visit(part, id) for what `text` consists of, in order: tokens with their id, and text
  /// between them, never empty, with nullopt.
  void for_each_part(std::string_view text,
                     FunctionRef<void(std::string_view, std::optional<int32_t>)> visit) const;

 private:
  /// The token that begins at `text[at]`; null without.
  [[nodiscard]] const AddedToken* longest_at(std::string_view text, size_t at) const;
  /// Node behind `node` along `byte`; 0 when there is none.
  [[nodiscard]] uint32_t child(uint32_t node, char byte) const;

  std::vector<AddedToken> tokens_;
  // A tree of their bytes; node 0 is its root.
  std::unordered_map<uint64_t, uint32_t> children_;
  std::vector<int32_t> token_at_;  // by node; -1 where none ends
  std::array<bool, 256> begins_{};
};

}  // namespace sluice
