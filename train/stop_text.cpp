#include "train/stop_text.h"

#include <algorithm>
#include <utility>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// Length of the longest end of `text` that begins `stop` without completing it.
size_t begun(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.ends_with(stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

StopText::StopText(std::vector<std::string> texts) : texts_(std::move(texts)) {
  for (const std::string& text : texts_) {
    SLUICE_CHECK(ConfigError, !text.empty(), "--stop: found an empty text, allowed any other");
  }
}

std::string StopText::push(std::string_view piece) {
  if (reached_) return {};
  held_ += piece;
  size_t first = std::string::npos;
  size_t keep = 0;
  for (const std::string& text : texts_) {
    first = std::min(first, held_.find(text));
    keep = std::max(keep, begun(held_, text));
  }
  reached_ = first != std::string::npos;
  const size_t shown = reached_ ? first : held_.size() - keep;
  std::string result = held_.substr(0, shown);
  held_.erase(0, reached_ ? held_.size() : shown);
  return result;
}

std::string StopText::flush() { return std::exchange(held_, {}); }

}  // namespace sluice
