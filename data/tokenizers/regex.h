#pragma once
// Regular expressions of pre-tokenizers: Unicode text, matched by PCRE2.
//
// tokenizer.json has them in the syntax of Oniguruma (Ruby's). What means the same in both is taken as
// it stands; \s and \S become the 25 characters of Unicode's White_Space, which PCRE2 counts otherwise,
// and ^ and $ hold at every line. What would silently mean another thing is refused: nested and
// intersected classes, {n,m}+ (possessive here, repeated there), \w, \b, \h and their like. \p{L} and
// the others are those of the Unicode version of the PCRE2 that is linked (14 in 10.42).

#include <memory>
#include <string>
#include <string_view>

#include "autograd/support/function_ref.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace sluice {

/// What matching needs besides the expression: one for each thread, for any number of expressions.
class RegexScratch {
 public:
  RegexScratch();

 private:
  friend class Regex;
  struct Free {
    void operator()(pcre2_real_match_data_8* data) const;
    void operator()(pcre2_real_match_context_8* context) const;
    void operator()(pcre2_real_jit_stack_8* stack) const;
  };
  std::unique_ptr<pcre2_real_match_data_8, Free> data_;
  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
  std::unique_ptr<pcre2_real_jit_stack_8, Free> stack_;
};

/// Immutable; any number of threads may match at once.
class Regex {
 public:
  /// Throws DataError, one sentence, for what is no expression or one that is refused.
  explicit Regex(std::string_view pattern);

  /// Calls visit(begin, end) for every match from left to right, none overlapping another; empty ones
  /// too. `text` is valid UTF-8. Throws DataError when a match would take more than PCRE2's limit of
  /// steps.
  void for_each_match(std::string_view text, RegexScratch& scratch,
                      FunctionRef<void(size_t, size_t)> visit) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::string pattern_;
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

}  // namespace sluice
