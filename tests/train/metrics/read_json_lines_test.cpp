#include "train/metrics/read_json_lines.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using ::testing::StartsWith;

class ReadJsonLines : public ::testing::Test {
 protected:
  std::filesystem::path write(std::string_view content) {
    std::ofstream(scratch_ / "a.jsonl", std::ios::binary) << content;
    return scratch_ / "a.jsonl";
  }
  std::vector<int> steps(std::string_view content) {
    std::vector<int> found;
    read_json_lines(write(content),
                    [&](const json& record) { found.push_back(record.at("step").get<int>()); });
    return found;
  }
  std::string problem(std::string_view content) {
    try {
      (void)steps(content);
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  }
  ScratchFolder scratch_;
};

TEST_F(ReadJsonLines, GivesEveryWholeLineInOrder) {
  EXPECT_THAT(steps("{\"step\":1}\n{\"step\":2}\n"), ElementsAre(1, 2));
  EXPECT_THAT(steps(""), ElementsAre());
}

TEST_F(ReadJsonLines, IgnoresTheLineThatAKilledProcessWasWriting) {
  EXPECT_THAT(steps("{\"step\":1}\n{\"step\":2,\"lo"), ElementsAre(1));
}

TEST_F(ReadJsonLines, JoinsALineThatSpansTwoReads) {
  // Reads are of 1 MiB.
  const std::string filler(700'000, 'x');
  std::string text;
  for (int i = 1; i <= 4; ++i) text += fmt::format("{{\"step\":{},\"f\":\"{}\"}}\n", i, filler);
  EXPECT_THAT(steps(text), ElementsAre(1, 2, 3, 4));
}

TEST_F(ReadJsonLines, RefusesADamagedLineWithItsPlace) {
  EXPECT_THAT(problem("{\"step\":1}\n{\"step\":\n{\"step\":3}\n"),
              AllOf(HasSubstr("a.jsonl:2: no JSON object: {\"step\":;")));
  EXPECT_THAT(problem("[1]\n"), HasSubstr("a.jsonl:1: no JSON object: [1];"));
  EXPECT_THAT(problem("{\"step\":1}\n\xFF\xFF\n"), HasSubstr("a.jsonl:2: no JSON object: ??;"));
}

TEST_F(ReadJsonLines, NamesTheLineOfAValueThatTheReaderDidNotExpect) {
  const std::string message = problem("{\"step\":1}\n{\"step\":\"two\"}\n");
  EXPECT_THAT(message, HasSubstr("a.jsonl:2: type must be number, but is string;"));
}

TEST_F(ReadJsonLines, FindsTheLastWantedLine) {
  const auto wanted = [](const json& record) { return record.contains("a"); };
  EXPECT_EQ(last_json_line(write("{\"a\":1}\n{\"a\":2}\n{\"b\":3}\n{\"a\":4,"), wanted),
            json::parse("{\"a\":2}"));
  EXPECT_EQ(last_json_line(write("{\"b\":3}\n"), wanted), std::nullopt);
}

}  // namespace
}  // namespace sluice
