#include "data/tokenizers/pre_tokenizer.h"

namespace sluice {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Makes pieces of a text's spans, which come in order: matches and what stands between them.
class SpanJoiner {
 public:
  SpanJoiner(std::string_view text, SplitBehavior behavior,
             FunctionRef<void(std::string_view)> visit)
      : text_(text), behavior_(behavior), visit_(visit) {}

  void add(size_t begin, size_t end, bool is_match) {
    if (behavior_ == SplitBehavior::removed && is_match) return;
    if (joins(is_match)) {
      end_ = end;
    } else {
      flush();
      begin_ = begin;
      end_ = end;
      has_span_ = true;
    }
    last_is_match_ = is_match;
  }
  void flush() {
    if (has_span_ && end_ > begin_) visit_(text_.substr(begin_, end_ - begin_));
    has_span_ = false;
  }

 private:
  [[nodiscard]] bool joins(bool is_match) const {
    if (!has_span_) return false;
    switch (behavior_) {
      case SplitBehavior::merged_with_previous:
        return is_match && !last_is_match_;
      case SplitBehavior::merged_with_next:
        return !is_match && last_is_match_;
      case SplitBehavior::contiguous:
        return is_match == last_is_match_;
      case SplitBehavior::isolated:
      case SplitBehavior::removed:
        break;
    }
    return false;
  }

  std::string_view text_;
  SplitBehavior behavior_;
  FunctionRef<void(std::string_view)> visit_;
  size_t begin_ = 0;
  size_t end_ = 0;
  bool has_span_ = false;
  bool last_is_match_ = false;
};

}  // namespace

void PreTokenizer::add_split(std::string_view pattern, SplitBehavior behavior, bool inverted) {
  Step step{.behavior = behavior, .inverted = inverted};
  step.pattern.emplace_back(pattern);
  steps_.push_back(std::move(step));
  if (behavior == SplitBehavior::removed) is_lossless_ = false;
}

void PreTokenizer::add_space_before() {
  steps_.emplace_back();
  is_lossless_ = false;
}

void PreTokenizer::add_gpt2_split() { add_split(kGpt2Pattern, SplitBehavior::isolated, false); }

void PreTokenizer::for_each_piece(std::string_view text, RegexScratch& scratch,
                                  FunctionRef<void(std::string_view)> visit) const {
  if (!text.empty()) run(0, text, scratch, visit);
}

void PreTokenizer::run(size_t number, std::string_view piece, RegexScratch& scratch,
                       FunctionRef<void(std::string_view)> visit) const {
  if (number == steps_.size()) return visit(piece);
  const Step& step = steps_[number];
  const auto next = [&](std::string_view part) { run(number + 1, part, scratch, visit); };
  if (step.pattern.empty()) {
    if (piece.starts_with(' ')) return next(piece);
    std::string spaced(1, ' ');
    spaced += piece;
    return next(spaced);
  }
  SpanJoiner spans(piece, step.behavior, next);
  size_t from = 0;
  step.pattern.front().for_each_match(piece, scratch, [&](size_t begin, size_t end) {
    if (begin > from) spans.add(from, begin, step.inverted);
    spans.add(begin, end, !step.inverted);
    from = end;
  });
  if (from < piece.size()) spans.add(from, piece.size(), step.inverted);
  spans.flush();
}

}  // namespace sluice
