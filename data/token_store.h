#pragma once
// Many tokens in memory: two bytes each while the vocabulary allows, else four.

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

namespace sluice {

class TokenStore {
 public:
  using Narrow = std::vector<uint16_t>;
  using Wide = std::vector<uint32_t>;

  /// Ids must be in [0, vocab_size).
  explicit TokenStore(int64_t vocab_size) {
    if (vocab_size > int64_t{1} << 16) tokens_ = Wide();
  }
  explicit TokenStore(std::variant<Narrow, Wide> tokens) : tokens_(std::move(tokens)) {}

  /// An empty store for the same vocabulary.
  [[nodiscard]] TokenStore empty_like() const {
    return std::visit([]<class T>(const T&) { return TokenStore(T()); }, tokens_);
  }

  [[nodiscard]] int64_t size() const {
    return std::visit([](const auto& tokens) { return static_cast<int64_t>(tokens.size()); },
                      tokens_);
  }
  [[nodiscard]] int32_t operator[](int64_t index) const {
    return std::visit([&](const auto& tokens) { return static_cast<int32_t>(tokens[index]); },
                      tokens_);
  }
  void push_back(int32_t id) { append({&id, 1}); }
  void append(std::span<const int32_t> ids) {
    std::visit([&](auto& tokens) { tokens.insert(tokens.end(), ids.begin(), ids.end()); }, tokens_);
  }
  /// Appends `count` tokens from `begin` on to `out`.
  void copy_to(int64_t begin, int64_t count, std::vector<int32_t>& out) const {
    std::visit(
        [&](const auto& tokens) {
          out.insert(out.end(), tokens.begin() + begin, tokens.begin() + begin + count);
        },
        tokens_);
  }
  /// Appends `count` tokens of `other`, a store of the same vocabulary.
  void append(const TokenStore& other, int64_t begin, int64_t count) {
    std::visit(
        [&](auto& tokens) {
          const auto& from = std::get<std::decay_t<decltype(tokens)>>(other.tokens_);
          tokens.insert(tokens.end(), from.begin() + begin, from.begin() + begin + count);
        },
        tokens_);
  }
  /// The array itself, for files and hashes.
  [[nodiscard]] const std::variant<Narrow, Wide>& array() const { return tokens_; }

  friend bool operator==(const TokenStore&, const TokenStore&) = default;

 private:
  std::variant<Narrow, Wide> tokens_ = Narrow();
};

}  // namespace sluice
