#include "data/tokenizers/added_tokens.h"

#include <algorithm>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// Unicode's White_Space, in UTF-8.
constexpr auto kWhiteSpace = std::to_array<std::string_view>(
    {"\t",           "\n",           "\v",           "\f",           "\r",
     " ",            "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80",
     "\xE2\x80\x81", "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85",
     "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A",
     "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"});

/// Bytes of the white space that `text` ends with.
size_t space_at_end(std::string_view text) {
  const size_t before = text.size();
  for (bool found = true; found;) {
    const auto* space =
        std::ranges::find_if(kWhiteSpace, [&](std::string_view s) { return text.ends_with(s); });
    found = space != kWhiteSpace.end();
    if (found) text.remove_suffix(space->size());
  }
  return before - text.size();
}

size_t space_at_begin(std::string_view text) {
  const size_t before = text.size();
  for (bool found = true; found;) {
    const auto* space =
        std::ranges::find_if(kWhiteSpace, [&](std::string_view s) { return text.starts_with(s); });
    found = space != kWhiteSpace.end();
    if (found) text.remove_prefix(space->size());
  }
  return before - text.size();
}

uint64_t edge(uint32_t node, char byte) {
  return (uint64_t{node} << 8U) | static_cast<unsigned char>(byte);
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), token_at_(1, -1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& content = tokens_[i].content;
    SLUICE_INTERNAL_CHECK(!content.empty(), "added token {} is empty", tokens_[i].id);
    begins_[static_cast<unsigned char>(content.front())] = true;
    uint32_t node = 0;
    for (const char byte : content) {
      const auto [found, is_new] =
          children_.try_emplace(edge(node, byte), static_cast<uint32_t>(token_at_.size()));
      if (is_new) token_at_.push_back(-1);
      node = found->second;
    }
    token_at_[node] = static_cast<int32_t>(i);
  }
}

bool AddedTokens::is_lossless() const {
  return std::ranges::none_of(tokens_, [](const AddedToken& token) {
    return token.takes_space_before || token.takes_space_behind;
  });
}

uint32_t AddedTokens::child(uint32_t node, char byte) const {
  const auto found = children_.find(edge(node, byte));
  return found == children_.end() ? 0 : found->second;
}

const AddedToken* AddedTokens::longest_at(std::string_view text, size_t at) const {
  const AddedToken* longest = nullptr;
  uint32_t node = 0;
  while (at < text.size()) {
    node = child(node, text[at++]);
    if (node == 0) break;
    if (token_at_[node] >= 0) longest = &tokens_[static_cast<size_t>(token_at_[node])];
  }
  return longest;
}

void AddedTokens::for_each_part(
    std::string_view text,
    FunctionRef<void(std::string_view, std::optional<int32_t>)> visit) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token =
        begins_[static_cast<unsigned char>(text[at])] ? longest_at(text, at) : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->content.size();
    if (token->takes_space_before) begin -= space_at_end(text.substr(done, at - done));
    if (token->takes_space_behind) end += space_at_begin(text.substr(end));
    if (begin > done) visit(text.substr(done, begin - done), std::nullopt);
    visit(text.substr(begin, end - begin), token->id);
    at = done = end;
  }
  if (done < text.size()) visit(text.substr(done), std::nullopt);
}

}  // namespace sluice
