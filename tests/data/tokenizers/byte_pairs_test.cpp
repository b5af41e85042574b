#include "data/tokenizers/byte_pairs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "autograd/support/error.h"
#include "tests/data/support.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::message_of;

using Merges = std::vector<std::pair<std::string, std::string>>;

/// Tokens 0 to 255 are the bytes; each merge makes the next one, unless it is there.
class Vocabulary {
 public:
  explicit Vocabulary(const Merges& merges) {
    for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
    for (const auto& [left, right] : merges) {
      merges_.push_back({ids_.at(left), ids_.at(right), add(left + right)});
    }
    for (int32_t byte = 0; byte < 256; ++byte) byte_ids_[static_cast<size_t>(byte)] = byte;
  }
  int32_t add(const std::string& token) {
    const auto [found, is_new] = ids_.try_emplace(token, static_cast<int32_t>(tokens_.size()));
    if (is_new) {
      tokens_.push_back(token);
      pieces_.push_back(found->second);
    }
    return found->second;
  }
  void forget_byte(char byte) { byte_ids_[static_cast<unsigned char>(byte)] = -1; }
  [[nodiscard]] const std::string& token(size_t id) const { return tokens_[id]; }
  [[nodiscard]] size_t size() const { return tokens_.size(); }

  [[nodiscard]] std::vector<int32_t> encode(std::string_view piece,
                                            bool whole_first = false) const {
    const BytePairs pairs(tokens_, pieces_, byte_ids_, merges_, whole_first);
    BytePairs::Scratch scratch;
    std::vector<int32_t> ids;
    pairs.encode(piece, scratch, ids);
    return ids;
  }
  /// The definition: the first of the pairs with the lowest rank merges, until there is none.
  [[nodiscard]] std::vector<int32_t> encode_slowly(std::string_view piece) const {
    std::vector<int32_t> ids;
    for (const unsigned char byte : piece) ids.push_back(byte);
    for (;;) {
      size_t best_rank = merges_.size();
      size_t best_at = 0;
      for (size_t at = 0; at + 1 < ids.size(); ++at) {
        for (size_t rank = 0; rank < best_rank; ++rank) {
          if (merges_[rank].left != ids[at] || merges_[rank].right != ids[at + 1]) continue;
          best_rank = rank;
          best_at = at;
        }
      }
      if (best_rank == merges_.size()) return ids;
      ids[best_at] = merges_[best_rank].result;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
    }
  }

 private:
  std::vector<std::string> tokens_;
  std::vector<int32_t> pieces_;
  std::map<std::string, int32_t> ids_;
  std::array<int32_t, 256> byte_ids_{};
  std::vector<BytePairs::Merge> merges_;
};

TEST(BytePairs, MergeByRankThenFromTheLeft) {
  // lo 256, low 257, er 258, " low" 259, we 260
  const Vocabulary v(Merges{{"l", "o"}, {"lo", "w"}, {"e", "r"}, {" ", "low"}, {"w", "e"}});
  EXPECT_THAT(v.encode("lower"), ElementsAre(257, 258));
  EXPECT_THAT(v.encode(" lower"), ElementsAre(259, 258));
  EXPECT_THAT(v.encode("wer"), ElementsAre('w', 258));  // er comes before we
  EXPECT_THAT(v.encode("we"), ElementsAre(260));
  EXPECT_THAT(v.encode("x"), ElementsAre('x'));
  EXPECT_THAT(v.encode(""), IsEmpty());

  const Vocabulary a(Merges{{"a", "a"}, {"aa", "aa"}});
  EXPECT_THAT(a.encode("aaa"), ElementsAre(256, 'a'));
  EXPECT_THAT(a.encode("aaaaaaa"), ElementsAre(257, 256, 'a'));
}

TEST(BytePairs, TakeATokenWholeOnlyWhereItsBytesMerge) {
  Vocabulary v(Merges{{"e", "r"}});
  const int32_t wer = v.add("wer");
  EXPECT_THAT(v.encode("wer"), ElementsAre('w', 256));
  EXPECT_THAT(v.encode("wer", /*whole_first=*/true), ElementsAre(wer));
  EXPECT_THAT(v.encode("werer", /*whole_first=*/true), ElementsAre('w', 256, 256));
}

TEST(BytePairs, LetTheLaterOfTwoEqualMergesCount) {
  // "ab" first before "bc", then behind it.
  const Vocabulary once(Merges{{"a", "b"}, {"b", "c"}});
  EXPECT_THAT(once.encode("abc"), ElementsAre(256, 'c'));
  const Vocabulary twice(Merges{{"a", "b"}, {"b", "c"}, {"a", "b"}});
  EXPECT_THAT(twice.encode("abc"), ElementsAre('a', 257));
}

TEST(BytePairs, AgreeWithTheirDefinition) {
  const RandomKey key{.purpose = RandomPurpose::test};
  for (uint64_t sample = 0; sample < 40; ++sample) {
    uint64_t draw = 0;
    const auto below = [&](uint64_t bound) { return uniform_below(key, sample, draw++, bound); };
    std::vector<std::string> tokens = {"a", "b", "c"};
    Merges merges;
    while (merges.size() < 30) {
      const auto& left = tokens[below(tokens.size())];
      const auto& right = tokens[below(tokens.size())];
      const auto merge = std::pair(left, right);
      if (left.size() + right.size() > 12 ||
          std::find(merges.begin(), merges.end(), merge) != merges.end()) {
        continue;
      }
      merges.push_back(merge);
      tokens.push_back(merge.first + merge.second);
    }
    const Vocabulary vocabulary(merges);
    for (int text = 0; text < 10; ++text) {
      std::string piece;
      for (uint64_t i = below(40); i > 0; --i) piece += "abc"[below(3)];
      EXPECT_EQ(vocabulary.encode(piece), vocabulary.encode_slowly(piece)) << piece;
    }
    // Every token too, which is looked up whole where that is right.
    for (size_t id = 256; id < vocabulary.size(); ++id) {
      EXPECT_EQ(vocabulary.encode(vocabulary.token(id)),
                vocabulary.encode_slowly(vocabulary.token(id)));
    }
  }
}

TEST(BytePairs, EncodeALongPieceInShortTime) {
  Merges merges;
  for (std::string token = "a"; token.size() < 256; token += token) {
    merges.emplace_back(token, token);
  }
  const Vocabulary v(merges);
  const std::vector<int32_t> ids = v.encode(std::string(300'000, 'a'));
  EXPECT_EQ(v.encode(std::string(256, 'a')).size(), 1u);
  EXPECT_EQ(ids.size(), 1171u + 3);  // 1171 x 256, and 224 = 128 + 64 + 32
}

TEST(BytePairs, NameAByteWithoutAToken) {
  Vocabulary v(Merges{});
  v.forget_byte('\n');
  EXPECT_EQ(message_of<DataError>([&] { (void)v.encode("a\n"); }),
            "the tokenizer has no token for the byte 0x0A of the text");
  EXPECT_THAT(v.encode("ab"), ElementsAre('a', 'b'));
}

}  // namespace
}  // namespace sluice
