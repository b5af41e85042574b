#pragma once
// Cuts text into the pieces that byte pairs are merged in, step by step: every step cuts each piece of
// the step before. A merge never crosses a cut.

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/function_ref.h"
#include "data/tokenizers/regex.h"

namespace sluice {

/// What becomes of a match, in the words of tokenizer.json.
enum class SplitBehavior : uint8_t {
  isolated,              // a piece of its own
  removed,               // left out
  merged_with_previous,  // the end of the piece before it, unless that is a match too
  merged_with_next,      // the beginning of the piece behind it, unless that is a match too
  contiguous,            // one piece with the matches beside it
};

class PreTokenizer {
 public:
  /// `inverted`: what stands between the matches counts as the match. Throws DataError for a bad
  /// pattern.
  void add_split(std::string_view pattern, SplitBehavior behavior, bool inverted);
  /// Each piece that begins otherwise gets a space in front.
  void add_space_before();
  /// GPT-2's pieces: contractions, then a space at most with letters, digits or others, and white
  /// space.
  void add_gpt2_split();

  /// False when pieces joined may not be the text.
  [[nodiscard]] bool is_lossless() const { return is_lossless_; }
  /// Calls visit(piece) in order, none of them empty. `text` is valid UTF-8.
  void for_each_piece(std::string_view text, RegexScratch& scratch,
                      FunctionRef<void(std::string_view)> visit) const;

 private:
  struct Step {
    std::vector<Regex> pattern;  // one; none for a step that adds spaces
    SplitBehavior behavior = SplitBehavior::isolated;
    bool inverted = false;
  };
  void run(size_t step, std::string_view piece, RegexScratch& scratch,
           FunctionRef<void(std::string_view)> visit) const;

  std::vector<Step> steps_;
  bool is_lossless_ = true;
};

}  // namespace sluice
