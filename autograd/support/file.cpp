#include "autograd/support/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <system_error>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr const char* kTemporaryMark = ".tmp-";
constexpr size_t kPieceBytes = size_t{1} << 20;

std::string reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void fail(RaiseError raise, const std::filesystem::path& path, std::string_view what,
                       int error) {
  raise(fmt::format("{}: cannot {}: {}", path.string(), what, reason(error)));
  SLUICE_INTERNAL_CHECK(false, "the error function returned");
  throw InternalError("unreachable");
}

// 0, or the errno of the write that failed. A short write goes on; the next one tells why it
// stopped.
int write_all(FileSystem& files, int descriptor, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = files.write(descriptor, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (written == 0) return ENOSPC;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return 0;
}

// Writes the front of `bytes` into a new file past the page cache, as much as the file system takes
// that way, and returns how much that is; `error` becomes the errno of what failed otherwise.
size_t write_direct(FileSystem& files, const char* path, std::span<const std::byte> bytes,
                    int& error) {
  const auto refuses = [](int reason) { return reason == EINVAL || reason == ENOTSUP; };
  constexpr auto kBlock = static_cast<size_t>(kDirectAlignment);
  constexpr size_t kMostAtOnce = size_t{4} << 20;
  const size_t whole = bytes.size() / kBlock * kBlock;
  const int descriptor = files.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT);
  if (descriptor < 0) {
    error = refuses(errno) ? 0 : errno;
    return 0;
  }
  size_t done = 0;
  while (done < whole && done % kBlock == 0 && error == 0) {
    const ssize_t written =
        files.write(descriptor, bytes.data() + done, std::min(kMostAtOnce, whole - done));
    if (written > 0) {
      done += static_cast<size_t>(written);
    } else if (written == 0) {
      error = ENOSPC;
    } else if (refuses(errno)) {
      break;
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (files.close(descriptor) < 0 && error == 0) error = errno;
  return done;
}

// Makes a rename or a creation in `folder` durable; 0 or errno.
int sync_folder(FileSystem& files, const std::filesystem::path& folder) {
  const std::string name = folder.empty() ? "." : folder.string();
  const int descriptor = files.open(name.c_str(), O_RDONLY | O_DIRECTORY);
  if (descriptor < 0) return errno;
  int error = files.sync(descriptor) < 0 ? errno : 0;
  // Some network file systems cannot sync a folder and say so; their renames are durable on their
  // own terms.
  if (error == EINVAL || error == ENOTSUP) error = 0;
  if (files.close(descriptor) < 0 && error == 0) error = errno;
  return error;
}

// The process id keeps two processes apart; a leftover of a dead process with the same id is
// overwritten.
std::filesystem::path temporary_path(const std::filesystem::path& path) {
  return fmt::format("{}{}{}", path.string(), kTemporaryMark, ::getpid());
}

}  // namespace

int FileSystem::open(const char* path, int flags) {
  constexpr mode_t kReadableByAll = 0644;
  return ::open(path, flags | O_CLOEXEC, kReadableByAll);
}
ssize_t FileSystem::write(int descriptor, const void* data, size_t bytes) {
  return ::write(descriptor, data, bytes);
}
int FileSystem::sync(int descriptor) { return ::fsync(descriptor); }
int FileSystem::close(int descriptor) { return ::close(descriptor); }
int FileSystem::rename(const char* from, const char* to) { return ::rename(from, to); }
int FileSystem::remove(const char* path) { return ::unlink(path); }

FileSystem& real_file_system() {
  static FileSystem files;
  return files;
}

PendingFile::PendingFile(FileSystem& files, std::filesystem::path path, RaiseError raise)
    : files_(files), path_(std::move(path)), temporary_(temporary_path(path_)), raise_(raise) {}

PendingFile::~PendingFile() {
  if (!renamed_) files_.remove(temporary_.c_str());
}

void PendingFile::publish() {
  const int descriptor = files_.open(temporary_.c_str(), O_RDWR);
  if (descriptor < 0) fail(raise_, path_, "write", errno);
  int error = files_.sync(descriptor) < 0 ? errno : 0;
  if (files_.close(descriptor) < 0 && error == 0) error = errno;
  if (error != 0) fail(raise_, path_, "write", error);
  rename();
}

void PendingFile::rename() {
  if (files_.rename(temporary_.c_str(), path_.c_str()) < 0) fail(raise_, path_, "rename", errno);
  renamed_ = true;
  const int error = sync_folder(files_, path_.parent_path());
  if (error != 0) fail(raise_, path_, "sync the folder", error);
}

namespace {

// Writes the pieces behind what the temporary file holds already, syncs it and renames it.
void write_and_rename(FileSystem& files, PendingFile& pending, int creation_flags,
                      std::span<const std::span<const std::byte>> pieces, RaiseError raise) {
  const int descriptor = files.open(pending.temporary().c_str(), O_WRONLY | creation_flags);
  if (descriptor < 0) fail(raise, pending.path(), "create", errno);

  int error = 0;
  for (const auto piece : pieces) {
    if (error == 0) error = write_all(files, descriptor, piece);
  }
  if (error == 0 && files.sync(descriptor) < 0) error = errno;
  // A failed close may be the first sign of a full or broken disk.
  if (files.close(descriptor) < 0 && error == 0) error = errno;
  if (error != 0) fail(raise, pending.path(), "write", error);
  pending.rename();
}

}  // namespace

void write_file_atomically(FileSystem& files, const std::filesystem::path& path,
                           std::span<const std::span<const std::byte>> pieces, RaiseError raise) {
  PendingFile pending(files, path, raise);
  write_and_rename(files, pending, O_CREAT | O_TRUNC, pieces, raise);
}

void write_file_atomically(FileSystem& files, const std::filesystem::path& path,
                           std::span<const std::byte> bytes, RaiseError raise) {
  const std::array<std::span<const std::byte>, 1> pieces{bytes};
  write_file_atomically(files, path, pieces, raise);
}

void write_large_file_atomically(FileSystem& files, const std::filesystem::path& path,
                                 std::span<const std::byte> bytes, RaiseError raise) {
  constexpr size_t kWorthIt = size_t{1} << 20;
  const bool is_aligned = reinterpret_cast<uintptr_t>(bytes.data()) % kDirectAlignment == 0;
  if (!is_aligned || bytes.size() < kWorthIt) {
    write_file_atomically(files, path, bytes, raise);
    return;
  }
  PendingFile pending(files, path, raise);
  int error = 0;
  const size_t done = write_direct(files, pending.temporary().c_str(), bytes, error);
  if (error != 0) fail(raise, path, "write", error);
  const std::array<std::span<const std::byte>, 1> rest{bytes.subspan(done)};
  write_and_rename(files, pending, done > 0 ? O_APPEND : O_CREAT | O_TRUNC, rest, raise);
}

void read_file_in_pieces(const std::filesystem::path& path, RaiseError raise,
                         const std::function<void(std::span<const std::byte>)>& consume) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(raise, path, "open", errno);
  struct Closer {
    int descriptor;
    ~Closer() { ::close(descriptor); }
  } closer{descriptor};
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kPieceBytes);
  while (true) {
    const ssize_t got = ::read(descriptor, buffer.get(), kPieceBytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(raise, path, "read", errno);
    if (got == 0) return;
    consume(std::span<const std::byte>(buffer.get(), static_cast<size_t>(got)));
  }
}

std::string read_file(const std::filesystem::path& path, RaiseError raise) {
  std::string text;
  read_file_in_pieces(path, raise, [&](std::span<const std::byte> piece) {
    text.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  return text;
}

void create_folders(FileSystem& files, const std::filesystem::path& folder, RaiseError raise) {
  std::error_code error;
  if (folder.empty() || std::filesystem::is_directory(folder, error)) return;
  create_folders(files, folder.parent_path(), raise);
  std::filesystem::create_directory(folder, error);
  if (error) fail(raise, folder, "create", error.value());
  const int sync_error = sync_folder(files, folder.parent_path());
  if (sync_error != 0) fail(raise, folder, "create", sync_error);
}

std::vector<std::filesystem::path> remove_stale_temporaries(FileSystem& files,
                                                            const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> stale;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().filename().string().find(kTemporaryMark) != std::string::npos) {
      stale.push_back(entry.path());
    }
  }
  std::sort(stale.begin(), stale.end());
  std::erase_if(stale, [&](const auto& path) { return files.remove(path.c_str()) < 0; });
  return stale;
}

AppendFile::AppendFile(FileSystem& files, std::filesystem::path path, RaiseError raise)
    : files_(files), path_(std::move(path)), raise_(raise) {
  const bool is_new = !std::filesystem::exists(path_);
  descriptor_ = files_.open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND);
  if (descriptor_ < 0) fail(raise_, path_, "open", errno);
  // Its name must survive a power cut as its contents do.
  if (is_new) (void)sync_folder(files_, path_.parent_path());
}

AppendFile::~AppendFile() { files_.close(descriptor_); }

void AppendFile::append(std::span<const std::byte> record) {
  const int error = write_all(files_, descriptor_, record);
  if (error != 0) fail(raise_, path_, "write", error);
}

void AppendFile::sync() {
  if (files_.sync(descriptor_) < 0) fail(raise_, path_, "sync", errno);
}

}  // namespace sluice
