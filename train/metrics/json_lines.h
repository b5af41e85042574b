#pragma once
// A file of one JSON object per line, each with its step: appended to during a run, cut back when
// the run resumes.

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "autograd/support/file.h"

namespace sluice {

class JsonLines {
 public:
  JsonLines(FileSystem& files, std::filesystem::path path)
      : files_(files), path_(std::move(path)) {}

  /// Drops the lines of later steps than `step` and the one that a killed process left unfinished;
  /// the others stay byte for byte. Before the first append.
  void truncate_after(int64_t step);
  /// `line` ends in '\n'.
  void append(std::string_view line);
  /// Makes it durable.
  void sync();

 private:
  // Opened late: truncation replaces the file.
  AppendFile& file();

  FileSystem& files_;
  std::filesystem::path path_;
  std::optional<AppendFile> file_;
};

/// The shortest decimal that reads back as the same bits; "null" for a number that is not finite.
[[nodiscard]] std::string json_number(double value);

}  // namespace sluice
