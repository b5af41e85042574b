#include "layers/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

constexpr std::string_view kSymbols = "AFE";

std::string message_of(std::string_view pattern) {
  return testing::error_of<ConfigError>([&] { (void)expand_pattern(pattern, kSymbols); });
}

TEST(Pattern, ExpandsGroupsAndCounts) {
  EXPECT_EQ(expand_pattern("(AE)x3", kSymbols), "AEAEAE");
  EXPECT_EQ(expand_pattern("(AE)3", kSymbols), "AEAEAE");
  EXPECT_EQ(expand_pattern("AF(AE)x2", kSymbols), "AFAEAE");
  EXPECT_EQ(expand_pattern(" A x2 ( F E ) ", kSymbols), "AAFE");
  EXPECT_EQ(expand_pattern("((AF)2E)x2", kSymbols), "AFAFEAFAFE");
}

TEST(Pattern, KeepsGroupsOfAdaptiveDepth) {
  EXPECT_EQ(expand_pattern("AF[AF]x2 E", kSymbols), "AF[AF][AF]E");
  EXPECT_EQ(expand_pattern("(F[A(FE)2])x2", kSymbols), "F[AFEFE]F[AFEFE]");
  EXPECT_THAT(message_of("A[F[A]]"), ::testing::HasSubstr("position 4: found a group in square"));
  EXPECT_THAT(message_of("A[F"), ::testing::HasSubstr("position 2: found \"[\" without its \"]\""));
  EXPECT_THAT(message_of("AF]"), ::testing::HasSubstr("position 3: found \"]\" without its \"[\""));
  EXPECT_THAT(message_of("A[]"), ::testing::HasSubstr("found an empty group"));
  EXPECT_THAT(message_of("(A]"), ::testing::HasSubstr("position 1: found \"(\" without its \")\""));
}

TEST(Pattern, SpreadsSublayersEvenly) {
  EXPECT_EQ(expand_pattern("{F10 A2}", kSymbols), "FFFAFFFFAFFF");
  EXPECT_EQ(expand_pattern("{F4 E4}", kSymbols), "FEFEEFEF");
  EXPECT_EQ(expand_pattern("{F3}", kSymbols), "FFF");
  EXPECT_EQ(expand_pattern("E{F2 A}x2", kSymbols), "EFAFFAF");
  // Every count is met, the first keeps both ends and runs of almost one length.
  for (int64_t base = 1; base <= 40; ++base) {
    for (int64_t attention = 1; attention <= base; ++attention) {
      for (const int64_t experts : {int64_t{1}, base / 2, base}) {
        if (experts < 1) continue;
        const std::string pattern = fmt::format("{{F{}A{}E{}}}", base, attention, experts);
        const std::string all = expand_pattern(pattern, kSymbols);
        EXPECT_EQ(std::ranges::count(all, 'F'), base) << pattern << " is " << all;
        EXPECT_EQ(std::ranges::count(all, 'A'), attention) << pattern << " is " << all;
        EXPECT_EQ(std::ranges::count(all, 'E'), experts) << pattern << " is " << all;
        std::vector<size_t> runs = {0};
        for (const char symbol : all) {
          if (symbol == 'A') {
            runs.push_back(0);
          } else {
            ++runs.back();
          }
        }
        const auto [shortest, longest] = std::ranges::minmax(runs);
        EXPECT_LE(longest - shortest, 1U) << pattern << " is " << all;
      }
    }
  }
  EXPECT_THAT(message_of("A{F2"),
              ::testing::HasSubstr("position 2: found \"{\" without its \"}\""));
  EXPECT_THAT(message_of("{F2(A)}"), ::testing::HasSubstr("\"(\" among symbols that are spread"));
  EXPECT_THAT(message_of("{}"), ::testing::HasSubstr("found nothing to spread"));
}

TEST(Pattern, SaysWhereAndWhatIsWrong) {
  EXPECT_EQ(message_of("AXE"),
            "pattern \"AXE\", position 2: found \"X\"; allowed are the symbols A, F, E and groups "
            "such as (AE)x6");
  EXPECT_THAT(message_of("(AE"), ::testing::HasSubstr("position 1: found \"(\" without its \")\""));
  EXPECT_THAT(message_of("AE)"), ::testing::HasSubstr("position 3: found \")\" without its \"(\""));
  EXPECT_THAT(message_of("A x"), ::testing::HasSubstr("\"x\" without a number"));
  EXPECT_THAT(message_of("(AE)x0"), ::testing::HasSubstr("a count of 0"));
  EXPECT_THAT(message_of(""), ::testing::HasSubstr("found nothing"));
  EXPECT_THAT(message_of("((A)x4000)x4000"), ::testing::HasSubstr("more than 4096 sublayers"));
  EXPECT_THAT(message_of("A99999999999999999999"), ::testing::HasSubstr("a count above 4096"));
  EXPECT_THAT(message_of(std::string(100, '(')), ::testing::HasSubstr("nested too deeply"));
}

}  // namespace
}  // namespace sluice
