#include "data/tokenizers/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <new>

#include "autograd/support/error.h"
#include "data/utf8.h"

namespace sluice {
namespace {

constexpr size_t kMaxPatternBytes = 16384;
constexpr size_t kFirstStackBytes = size_t{32} << 10U;
constexpr size_t kMaxStackBytes = size_t{8} << 20U;

/// Unicode's White_Space, as the inside of a class.
constexpr std::string_view kWhiteSpace =
    "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}"
    "\\x{3000}";

/// Oniguruma's syntax to PCRE2's.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_member(c);
      } else if (c == '[') {
        open_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        interval();
      } else {
        copy(1);
      }
    }
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw DataError(fmt::format("its pattern {} has {} at byte {}, which is not read here", shown(),
                                what, at_));
  }
  [[nodiscard]] std::string shown() const {
    return fmt::format("\"{}\"{}", replace_invalid_utf8(pattern_.substr(0, 100)),
                       pattern_.size() > 100 ? "..." : "");
  }
  [[nodiscard]] bool follows(std::string_view text) const {
    return pattern_.substr(at_).starts_with(text);
  }
  void copy(size_t bytes) {
    result_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }
  void replace(size_t bytes, std::string_view by) {
    result_ += by;
    at_ += bytes;
  }

  void escape() {
    if (at_ + 1 == pattern_.size()) refuse("a backslash at its end");
    const char c = pattern_[at_ + 1];
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == 's') {
      replace(2, in_class_ ? std::string(kWhiteSpace) : fmt::format("[{}]", kWhiteSpace));
    } else if (c == 'S' && !in_class_) {
      replace(2, fmt::format("[^{}]", kWhiteSpace));
    } else if (c == 'v') {
      replace(2, "\\x0B");  // a class of line breaks in PCRE2
    } else if (c == 'u') {
      code_point();
    } else if (c == '0' || (is_letter && std::string_view("pPdDnrtfaexAzZ").find(c) ==
                                             std::string_view::npos)) {
      refuse(fmt::format("\\{}", c));
    } else {
      // What braces behind it name is no interval.
      const size_t end = pattern_.substr(at_ + 2).starts_with('{') && is_letter
                             ? pattern_.find('}', at_)
                             : std::string_view::npos;
      copy(end == std::string_view::npos ? 2 : end + 1 - at_);
    }
  }

  void code_point() {
    const std::string_view digits = pattern_.substr(at_ + 2, 4);
    if (digits.size() < 4 ||
        digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
      refuse("\\u without four digits");
    }
    replace(6, fmt::format("\\x{{{}}}", digits));
  }

  void open_class() {
    copy(1);
    if (follows("^")) copy(1);
    if (follows("]")) copy(1);  // a member there
    in_class_ = true;
  }

  void class_member(char c) {
    if (c == '[') refuse("a class inside a class");
    if (follows("&&")) refuse("the intersection &&");
    if (c == ']') in_class_ = false;
    copy(1);
  }

  void group() {
    constexpr std::array<std::string_view, 9> kKnown = {"(?:", "(?=",  "(?!",  "(?<=", "(?<!",
                                                        "(?>", "(?i:", "(?i)", "(?-i:"};
    if (follows("(*")) refuse("(*");
    if (!follows("(?")) return copy(1);
    for (const std::string_view known : kKnown) {
      if (follows(known)) return copy(known.size());
    }
    refuse(replace_invalid_utf8(pattern_.substr(at_, 4)));
  }

  void interval() {
    const size_t end = pattern_.find('}', at_);
    const bool counts =
        end != std::string_view::npos && end > at_ + 1 &&
        pattern_.substr(at_ + 1, end - at_ - 1).find_first_not_of("0123456789,") ==
            std::string_view::npos;
    if (!counts) return copy(1);
    if (follows("{,")) refuse("{,");
    if (end + 1 < pattern_.size() && pattern_[end + 1] == '+') refuse("}+");
    copy(end + 1 - at_);
  }

  std::string_view pattern_;
  std::string result_;
  size_t at_ = 0;
  bool in_class_ = false;
};

std::string message_of(int error) {
  std::array<PCRE2_UCHAR8, 256> text{};
  pcre2_get_error_message_8(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

void RegexScratch::Free::operator()(pcre2_match_data_8* data) const {
  pcre2_match_data_free_8(data);
}
void RegexScratch::Free::operator()(pcre2_match_context_8* context) const {
  pcre2_match_context_free_8(context);
}
void RegexScratch::Free::operator()(pcre2_jit_stack_8* stack) const {
  pcre2_jit_stack_free_8(stack);
}
void Regex::Free::operator()(pcre2_code_8* code) const { pcre2_code_free_8(code); }

RegexScratch::RegexScratch()
    : data_(pcre2_match_data_create_8(1, nullptr)),
      context_(pcre2_match_context_create_8(nullptr)),
      stack_(pcre2_jit_stack_create_8(kFirstStackBytes, kMaxStackBytes, nullptr)) {
  if (data_ == nullptr || context_ == nullptr) throw std::bad_alloc();
  // Without a stack of its own (no compiler for this processor) matching goes by interpretation.
  if (stack_ != nullptr) pcre2_jit_stack_assign_8(context_.get(), nullptr, stack_.get());
}

Regex::Regex(std::string_view pattern) : pattern_(pattern) {
  SLUICE_CHECK(DataError, pattern.size() <= kMaxPatternBytes,
               "its pattern has {} bytes, allowed at most {}", pattern.size(), kMaxPatternBytes);
  const std::string translated = Translator(pattern).run();
  const std::unique_ptr<pcre2_compile_context_8, decltype(&pcre2_compile_context_free_8)> context(
      pcre2_compile_context_create_8(nullptr), pcre2_compile_context_free_8);
  if (context == nullptr) throw std::bad_alloc();
  pcre2_set_newline_8(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE place = 0;
  code_.reset(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &place,
                              context.get()));
  SLUICE_CHECK(DataError, code_ != nullptr, "its pattern \"{}\" is no regular expression: {}",
               replace_invalid_utf8(pattern.substr(0, 100)), message_of(error));
  // Where it cannot be compiled further it is interpreted.
  (void)pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE);
}

void Regex::for_each_match(std::string_view text, RegexScratch& scratch,
                           FunctionRef<void(size_t, size_t)> visit) const {
  if (text.empty()) return;
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer_8(scratch.data_.get());
  size_t from = 0;
  size_t last_end = std::string_view::npos;
  while (from <= text.size()) {
    const int result =
        pcre2_match_8(code_.get(), reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), from,
                      PCRE2_NO_UTF_CHECK, scratch.data_.get(), scratch.context_.get());
    if (result == PCRE2_ERROR_NOMATCH) return;
    SLUICE_CHECK(DataError, result >= 0, "its pattern \"{}\" fails on a text of {} bytes: {}",
                 pattern_.substr(0, 100), text.size(), message_of(result));
    const size_t begin = bounds[0];
    const size_t end = bounds[1];
    // An empty match right behind another one is none of its own.
    if (end > begin || begin != last_end) visit(begin, end);
    last_end = end;
    from = end;
    if (end > begin) continue;
    ++from;
    while (from < text.size() && is_utf8_continuation(text[from])) ++from;
  }
}

}  // namespace sluice
