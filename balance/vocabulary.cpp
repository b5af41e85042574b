#include "balance/vocabulary.h"

#include <algorithm>
#include <tuple>

#include "autograd/support/error.h"

namespace sluice {

VocabularyCounts::VocabularyCounts(int64_t vocab_size, int64_t experts)
    : experts_(experts), row_of_(static_cast<size_t>(vocab_size), -1) {}

void VocabularyCounts::add(std::span<const int32_t> token_ids, const Choices& choices) {
  SLUICE_INTERNAL_CHECK(std::ssize(token_ids) == choices.tokens(), "{} token ids, {} choices",
                        token_ids.size(), choices.tokens());
  for (int64_t token = 0; token < choices.tokens(); ++token) {
    if (!choices.counts(token)) continue;
    const int32_t id = token_ids[static_cast<size_t>(token)];
    int32_t& row = row_of_.at(static_cast<size_t>(id));
    if (row < 0) {
      row = static_cast<int32_t>(ids_.size());
      ids_.push_back(id);
      tokens_.push_back(0);
      counts_.resize(counts_.size() + static_cast<size_t>(experts_), 0);
    }
    ++tokens_[static_cast<size_t>(row)];
    int64_t* counts = &counts_[static_cast<size_t>(row * experts_)];
    choices.each(token, [&](size_t expert) { ++counts[expert]; });
  }
}

std::span<const int64_t> VocabularyCounts::chosen(int32_t id) const {
  const int32_t row = row_of_.at(static_cast<size_t>(id));
  if (row < 0) return {};
  return std::span(counts_).subspan(static_cast<size_t>(row * experts_),
                                    static_cast<size_t>(experts_));
}

int64_t VocabularyCounts::tokens(int32_t id) const {
  const int32_t row = row_of_.at(static_cast<size_t>(id));
  return row < 0 ? 0 : tokens_[static_cast<size_t>(row)];
}

std::vector<VocabularyCounts::Entry> VocabularyCounts::top(int64_t expert, int64_t most,
                                                           int64_t least_tokens) const {
  std::vector<Entry> entries;
  for (size_t row = 0; row < ids_.size(); ++row) {
    const int64_t count =
        counts_[row * static_cast<size_t>(experts_) + static_cast<size_t>(expert)];
    if (tokens_[row] < least_tokens || count == 0) continue;
    entries.push_back({.token = ids_[row],
                       .tokens = tokens_[row],
                       .share = static_cast<double>(count) / static_cast<double>(tokens_[row])});
  }
  const auto kept = std::min<int64_t>(most, std::ssize(entries));
  std::partial_sort(
      entries.begin(), entries.begin() + kept, entries.end(), [](const Entry& a, const Entry& b) {
        return std::tuple(-a.share, -a.tokens, a.token) < std::tuple(-b.share, -b.tokens, b.token);
      });
  entries.resize(static_cast<size_t>(kept));
  return entries;
}

}  // namespace sluice
