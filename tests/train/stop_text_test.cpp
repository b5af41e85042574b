#include "train/stop_text.h"

#include <gtest/gtest.h>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// What comes out when `text` comes in, `size` bytes at a time.
std::string through(StopText stop, std::string_view text, size_t size) {
  std::string shown;
  for (size_t at = 0; at < text.size(); at += size) shown += stop.push(text.substr(at, size));
  return shown + stop.flush();
}

TEST(StopText, EndsTheTextBeforeTheFirstOfThem) {
  for (const size_t size : {1, 2, 3, 5, 100}) {
    EXPECT_EQ(through(StopText({"END", "\n\n"}), "one\ntwo\n\nthree END", size), "one\ntwo");
    EXPECT_EQ(through(StopText({"END", "\n\n"}), "one END\n\n", size), "one ");
  }
}

TEST(StopText, LetsTextWithoutOneThrough) {
  for (const size_t size : {1, 2, 3, 100}) {
    EXPECT_EQ(through(StopText({"aab"}), "aaaaac aa", size), "aaaaac aa");
    EXPECT_EQ(through(StopText({}), "anything", size), "anything");
  }
}

TEST(StopText, FindsOneThatBeginsInsideItsOwnBeginning) {
  for (const size_t size : {1, 2, 3}) {
    EXPECT_EQ(through(StopText({"aab"}), "aaaab", size), "aa");
    EXPECT_EQ(through(StopText({"abab!"}), "ababab!x", size), "ab");
  }
}

TEST(StopText, ShowsTextAsSoonAsItIsCertain) {
  StopText stop({"###"});
  EXPECT_EQ(stop.push("a#"), "a");
  EXPECT_EQ(stop.push("b"), "#b");
  EXPECT_EQ(stop.push("##"), "");
  EXPECT_FALSE(stop.reached());
  EXPECT_EQ(stop.push("#c"), "");
  EXPECT_TRUE(stop.reached());
  EXPECT_EQ(stop.push("more"), "");
  EXPECT_EQ(stop.flush(), "");
}

TEST(StopText, RefusesAnEmptyText) { EXPECT_THROW(StopText({"a", ""}), ConfigError); }

}  // namespace
}  // namespace sluice
