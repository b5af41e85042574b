#include "data/files.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice {

namespace fs = std::filesystem;

std::string read_input_file(const std::string& path) {
  std::error_code ignored;
  SLUICE_CHECK(ConfigError, fs::exists(path, ignored), "{}: file not found", path);
  SLUICE_CHECK(DataError, fs::is_regular_file(path, ignored), "{}: not a regular file", path);
  return read_file(path, raise_as<DataError>);
}

std::vector<std::string> files_at(const std::string& path,
                                  std::initializer_list<std::string_view> extensions) {
  std::error_code ignored;
  SLUICE_CHECK(ConfigError, fs::exists(path, ignored), "{}: file or folder not found", path);
  if (!fs::is_directory(path, ignored)) return {path};
  const auto is_wanted = [&](const fs::path& file) {
    return extensions.size() == 0 || std::find(extensions.begin(), extensions.end(),
                                               extension_of(file.string())) != extensions.end();
  };
  std::vector<std::string> files;
  try {
    for (auto entry = fs::recursive_directory_iterator(path); entry != fs::end(entry); ++entry) {
      if (entry->path().filename().string().starts_with('.')) {
        if (entry->is_directory()) entry.disable_recursion_pending();
      } else if (entry->is_regular_file() && is_wanted(entry->path())) {
        files.push_back(entry->path().string());
      }
    }
  } catch (const fs::filesystem_error& error) {
    throw DataError(fmt::format("{}: cannot be listed: {}", path, error.code().message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string extension_of(const std::string& path) {
  std::string extension = fs::path(path).extension().string();
  if (!extension.empty()) extension.erase(0, 1);
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

}  // namespace sluice
