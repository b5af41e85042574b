// What no file of the repository may carry: unfinished work, a machine's paths in a recipe, a
// source file too long to be read in one sitting.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/source_tree.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::lines_of;
using testing::read_source_tree;
using testing::SourceFile;

/// "path:line: text" of every line that the pattern finds.
std::vector<std::string> lines_matching(const std::vector<SourceFile>& files,
                                        const std::regex& pattern) {
  std::vector<std::string> found;
  for (const SourceFile& file : files) {
    size_t number = 0;
    for (const std::string_view line : lines_of(file.text)) {
      ++number;
      if (std::regex_search(line.begin(), line.end(), pattern)) {
        found.push_back(fmt::format("{}:{}: {}", file.path, number, line));
      }
    }
  }
  return found;
}

// Spelled in pieces, so that this file does not find itself.
const std::regex& unfinished_work() {
  static const std::regex pattern(
      "\\b(TO"
      "DO|FIX"
      "ME|XX"
      "X|HA"
      "CK)\\b");
  return pattern;
}

const std::regex& absolute_path() {
  static const std::regex pattern("(^|[\\s'\"=\\[{,(])[/~][A-Za-z/]");
  return pattern;
}

/// Files of more lines than `limit`, as sentences.
std::vector<std::string> longer_than(const std::vector<SourceFile>& files, std::string_view folder,
                                     bool inside, size_t limit) {
  std::vector<std::string> found;
  for (const SourceFile& file : files) {
    const size_t count = lines_of(file.text).size();
    if (file.path.starts_with(folder) == inside && count > limit) {
      found.push_back(fmt::format("{} has {} lines, allowed {}", file.path, count, limit));
    }
  }
  return found;
}

TEST(Repository, HoldsNoUnfinishedWork) {
  const auto files = read_source_tree(
      SLUICE_SOURCE_DIR, {".h", ".cpp", ".def", ".cmake", ".txt", ".yaml", ".md", ".in"});
  EXPECT_THAT(lines_matching(files, unfinished_work()), IsEmpty());
}

TEST(Repository, HoldsNoAbsolutePathInARecipe) {
  std::vector<SourceFile> recipes;
  for (SourceFile& file : read_source_tree(SLUICE_SOURCE_DIR, {".yaml"})) {
    if (file.path.starts_with("recipes/")) recipes.push_back(std::move(file));
  }
  EXPECT_THAT(lines_matching(recipes, absolute_path()), IsEmpty());
}

TEST(Repository, HoldsNoSourceFileTooLongToRead) {
  const auto files = read_source_tree(SLUICE_SOURCE_DIR, {".h", ".cpp"});
  EXPECT_THAT(longer_than(files, "tests/", /*inside=*/false, 600), IsEmpty());
  EXPECT_THAT(longer_than(files, "tests/", /*inside=*/true, 800), IsEmpty());
}

TEST(Repository, ReportsUnfinishedWorkWithFileAndLine) {
  const std::string line = std::string("// TO") + "DO: later";
  EXPECT_THAT(lines_matching({{"a.cpp", "int x;\n" + line + "\n"}}, unfinished_work()),
              ElementsAre("a.cpp:2: " + line));
}

TEST(Repository, TellsAnAbsolutePathFromASlash) {
  const std::vector<SourceFile> recipe{
      {"recipes/b.yaml", "path: /home/me/text.txt\nother: ../data/and/or.txt  # 1 / 2\n"}};
  EXPECT_THAT(lines_matching(recipe, absolute_path()),
              ElementsAre("recipes/b.yaml:1: path: /home/me/text.txt"));
}

TEST(Repository, CountsTheLinesOfAFileOutsideTheTests) {
  const std::vector<SourceFile> files{{"a.cpp", "1\n2\n"}, {"tests/b_test.cpp", "1\n2\n3\n"}};
  EXPECT_THAT(longer_than(files, "tests/", /*inside=*/false, 1),
              ElementsAre("a.cpp has 2 lines, allowed 1"));
  EXPECT_THAT(longer_than(files, "tests/", /*inside=*/true, 3), IsEmpty());
}

}  // namespace
}  // namespace sluice
