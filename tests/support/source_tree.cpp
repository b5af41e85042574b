#include "tests/support/source_tree.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "autograd/support/error.h"

namespace sluice::testing {
namespace {

namespace fs = std::filesystem;

// What a clone holds; build folders, runs and the version control's own files are not among them.
constexpr std::array kFolders{".ci",    "autograd", "balance", "bench",   "cmake", "data",
                              "layers", "optim",    "recipes", "scripts", "tests", "train"};
constexpr std::string_view kCorpus = "data/quick/";

std::string read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  SLUICE_CHECK(DataError, stream.good(), "{}: cannot be read", path.string());
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

std::vector<SourceFile> read_source_tree(const std::string& root,
                                         const std::vector<std::string_view>& endings) {
  std::vector<SourceFile> files;
  const auto add = [&](const fs::directory_entry& entry) {
    const std::string path = entry.path().lexically_relative(root).generic_string();
    const bool wanted = std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) {
      return path.ends_with(ending);
    });
    if (entry.is_regular_file() && wanted && !path.starts_with(kCorpus)) {
      files.push_back({path, read(entry.path())});
    }
  };
  for (const auto& entry : fs::directory_iterator(root)) add(entry);
  for (const std::string_view folder : kFolders) {
    const fs::path path = fs::path(root) / folder;
    if (!fs::exists(path)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(path)) add(entry);
  }
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace sluice::testing
