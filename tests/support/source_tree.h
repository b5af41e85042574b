#pragma once
// The repository as text, for the tests that hold the sources to the project's rules.

#include <string>
#include <string_view>
#include <vector>

namespace sluice::testing {

/// One text file: its path from the repository root, with '/', and its content.
struct SourceFile {
  std::string path;
  std::string text;
};

/// Every file of the folders and at the root whose name ends in one of `endings` ("" matches all),
/// sorted by path; without the quickstart's corpus, which is not ours. Throws DataError when a file
/// cannot be read.
[[nodiscard]] std::vector<SourceFile> read_source_tree(
    const std::string& root, const std::vector<std::string_view>& endings);

/// Lines without their ends.
[[nodiscard]] std::vector<std::string_view> lines_of(std::string_view text);

}  // namespace sluice::testing
