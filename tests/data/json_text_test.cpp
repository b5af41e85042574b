#include "data/json_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using testing::error_of;
using testing::ScratchFolder;

std::string error_in(const std::string& text) {
  return error_of<CheckpointError>(
      [&] { (void)parse_json(text, "a.json", raise_as<CheckpointError>); });
}

TEST(JsonText, ReadsWhatIsRight) {
  const auto json =
      parse_json(R"({"a": [1, {"b": "c"}], "b": {"a": null}} )", "a.json", raise_as<DataError>);
  EXPECT_EQ(json["a"][1]["b"], "c");
  EXPECT_TRUE(json["b"]["a"].is_null());
}

TEST(JsonText, RefusesANameGivenTwiceInOneObject) {
  EXPECT_EQ(error_in(R"({"a": 1, "b": {"a": 2, "c": 3, "c": 4}})"),
            "a.json: its JSON gives \"c\" twice in one object");
  // A name written in another way is the same name.
  EXPECT_EQ(error_in(R"({"a": 1, "\u0061": 2})"),
            "a.json: its JSON gives \"a\" twice in one object");
}

TEST(JsonText, RaisesTheCallersError) {
  EXPECT_EQ(error_of<DataError>([] { (void)parse_json("[", "", raise_as<DataError>); }),
            "is no valid JSON at byte 2");
}

TEST(JsonText, RefusesDeepNestingWithoutARecursion) {
  const auto nested = [](size_t levels, const char* open, const char* close) {
    std::string text;
    for (size_t i = 0; i < levels; ++i) text += open;
    text += "1";
    for (size_t i = 0; i < levels; ++i) text += close;
    return text;
  };
  EXPECT_EQ(error_in(nested(64, "[", "]")), "no error");
  EXPECT_EQ(error_in(nested(65, "[", "]")), "a.json: its JSON nests deeper than 64 levels");
  EXPECT_EQ(error_in(nested(10'000'000, "[", "")), "a.json: its JSON nests deeper than 64 levels");
  EXPECT_EQ(error_in(nested(1'000'000, "{\"a\":", "}")),
            "a.json: its JSON nests deeper than 64 levels");
}

TEST(JsonText, RefusesWhatIsNoJson) {
  EXPECT_EQ(error_in(""), "a.json: is no valid JSON at byte 1");
  EXPECT_EQ(error_in("{\"a\": 1} x"), "a.json: is no valid JSON at byte 10");
  EXPECT_EQ(error_in("{\"\xFF\": 1}"), "a.json: is no valid JSON at byte 3");
  EXPECT_THAT(error_in("[1e999]"), ::testing::HasSubstr("a.json: its JSON cannot be read"));
}

TEST(JsonText, ReadsPythonsInfinitiesInFiles) {
  const ScratchFolder folder;
  std::ofstream(folder / "a.json") << R"({"limit": [-Infinity, Infinity], "NaN \" Infinity": NaN})";
  const auto json = read_json_file(folder / "a.json", raise_as<DataError>);
  EXPECT_EQ(json["limit"][0], "-Infinity");
  EXPECT_EQ(json["limit"][1], "Infinity");
  EXPECT_EQ(json["NaN \" Infinity"], "NaN");
}

TEST(JsonText, RefusesAFileThatIsTooLarge) {
  const ScratchFolder folder;
  std::ofstream(folder / "a.json") << "[1, 2, 3]";
  EXPECT_EQ(error_of<CheckpointError>([&] {
              (void)read_json_file(folder / "a.json", raise_as<CheckpointError>, 8);
            }),
            (folder / "a.json").string() + ": 9 bytes, allowed at most 8");
}

}  // namespace
}  // namespace sluice
