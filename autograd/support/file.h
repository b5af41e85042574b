#pragma once
// Files that survive a crash: a file is replaced whole or not at all.
//
//   write_file_atomically(real_file_system(), "runs/a/recipe.yaml", bytes_of(text),
//   raise_as<CheckpointError>);
//
// Every system call that can lose data goes through FileSystem, so that tests can fill the disk or
// cut the power after any one of them. Which typed error is thrown is the caller's choice:
// checkpoints and data share this file.

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// Throws the caller's type of error; never returns.
using RaiseError = void (*)(std::string message);
template <class ErrorType>
[[noreturn]] void raise_as(std::string message) {
  throw ErrorType(std::move(message));
}

/// The system calls of writing, with POSIX results (-1 and errno). The base class is the real
/// thing.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual int open(const char* path, int flags);
  virtual ssize_t write(int descriptor, const void* data, size_t bytes);
  virtual int sync(int descriptor);
  virtual int close(int descriptor);
  virtual int rename(const char* from, const char* to);
  virtual int remove(const char* path);
};

[[nodiscard]] FileSystem& real_file_system();

[[nodiscard]] inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span<const char>(text));
}

/// Replaces `path` by the pieces joined: writes a temporary file beside it, syncs, closes, renames,
/// syncs the folder. After a crash at any point the reader finds the old file or the new one. On
/// failure the temporary file is removed, the old file is untouched, and the error says what failed
/// ("runs/a/x.h5: cannot write: No space left on device").
void write_file_atomically(FileSystem& files, const std::filesystem::path& path,
                           std::span<const std::span<const std::byte>> pieces, RaiseError raise);
void write_file_atomically(FileSystem& files, const std::filesystem::path& path,
                           std::span<const std::byte> bytes, RaiseError raise);

/// Memory whose start is a multiple of this can go to the disk without a copy.
inline constexpr int64_t kDirectAlignment = 4096;

/// The same for a large file that is not read again soon: where the file system allows it, whole
/// blocks go to the disk past the page cache, which costs next to no processor time and leaves in
/// the cache what is there. `bytes` starts at a multiple of kDirectAlignment, or goes through the
/// cache.
void write_large_file_atomically(FileSystem& files, const std::filesystem::path& path,
                                 std::span<const std::byte> bytes, RaiseError raise);

/// A file that somebody else writes piece by piece, under a temporary name beside its own:
///
///   PendingFile file(files, "trace.h5", raise_as<DataError>);
///   ... write and close file.temporary() ...
///   file.publish();
///
/// Unless it was renamed, the temporary file is removed and what stood under the name is untouched.
class PendingFile {
 public:
  PendingFile(FileSystem& files, std::filesystem::path path, RaiseError raise);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const std::filesystem::path& temporary() const { return temporary_; }
  /// Syncs the temporary file, then rename().
  void publish();
  /// Gives a temporary file that is synced already its name, and syncs the folder.
  void rename();

 private:
  FileSystem& files_;
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  RaiseError raise_;
  bool renamed_ = false;
};

/// The whole file. Raises when it is missing or unreadable.
[[nodiscard]] std::string read_file(const std::filesystem::path& path, RaiseError raise);

/// Calls `consume` with consecutive pieces of the file (at most 1 MiB each).
void read_file_in_pieces(const std::filesystem::path& path, RaiseError raise,
                         const std::function<void(std::span<const std::byte>)>& consume);

/// Creates a folder and its parents, durably: the parents are synced. An existing folder is fine.
void create_folders(FileSystem& files, const std::filesystem::path& folder, RaiseError raise);

/// Removes what a crash during write_file_atomically left in `folder`, and returns the paths
/// removed. Only the one process that writes there may call it.
std::vector<std::filesystem::path> remove_stale_temporaries(FileSystem& files,
                                                            const std::filesystem::path& folder);

/// A file that grows at its end. A record is handed to the system in one write, so that a killed
/// process leaves at most the last record incomplete.
class AppendFile {
 public:
  /// Opens or creates.
  AppendFile(FileSystem& files, std::filesystem::path path, RaiseError raise);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::span<const std::byte> record);
  /// Waits until everything appended is on the disk.
  void sync();

 private:
  FileSystem& files_;
  std::filesystem::path path_;
  RaiseError raise_;
  int descriptor_ = -1;
};

}  // namespace sluice
