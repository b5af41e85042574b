#pragma once
// File systems that go wrong on purpose: a full disk, and a power cut after any system call.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <limits>
#include <map>
#include <string>

#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice::testing {

/// Writes succeed until `capacity` bytes, the last one in part; then the disk is full.
class FullDisk : public FileSystem {
 public:
  explicit FullDisk(int64_t capacity) : free_(capacity) {}
  ssize_t write(int descriptor, const void* data, size_t bytes) override {
    if (free_ == 0) {
      errno = ENOSPC;
      return -1;
    }
    const auto part = std::min(static_cast<int64_t>(bytes), free_);
    free_ -= part;
    return FileSystem::write(descriptor, data, static_cast<size_t>(part));
  }

 private:
  int64_t free_;
};

/// The n-th call (counted from 0, all kinds) fails with EIO; the others work.
class FailingCall : public FileSystem {
 public:
  explicit FailingCall(int64_t failing) : failing_(failing) {}
  [[nodiscard]] int64_t calls() const { return calls_; }

  int open(const char* path, int flags) override {
    return fails() ? -1 : FileSystem::open(path, flags);
  }
  ssize_t write(int descriptor, const void* data, size_t bytes) override {
    return fails() ? -1 : FileSystem::write(descriptor, data, bytes);
  }
  int sync(int descriptor) override { return fails() ? -1 : FileSystem::sync(descriptor); }
  int close(int descriptor) override {
    const int result = FileSystem::close(descriptor);
    return fails() ? -1 : result;
  }
  int rename(const char* from, const char* to) override {
    return fails() ? -1 : FileSystem::rename(from, to);
  }
  int remove(const char* path) override { return fails() ? -1 : FileSystem::remove(path); }

 private:
  bool fails() {
    if (calls_++ != failing_) return false;
    errno = EIO;
    return true;
  }
  int64_t failing_;
  int64_t calls_ = 0;
};

struct PowerCut {};

/// Throws PowerCut in place of the n-th call, after which nothing reaches the disk any more. Then
/// `lose_unsynced` makes the disk look as it may after the restart: contents that were not synced
/// are lost, and a rename whose folder was not synced is undone or kept.
class CutPower : public FileSystem {
 public:
  explicit CutPower(int64_t cut_at) : cut_at_(cut_at) {}
  [[nodiscard]] int64_t calls() const { return calls_; }

  int open(const char* path, int flags) override {
    step();
    const int descriptor = FileSystem::open(path, flags);
    if (descriptor >= 0) open_[descriptor] = path;
    if ((flags & O_CREAT) != 0) unsynced_[path] = true;
    return descriptor;
  }
  ssize_t write(int descriptor, const void* data, size_t bytes) override {
    step();
    unsynced_[open_[descriptor]] = true;
    return FileSystem::write(descriptor, data, bytes);
  }
  int sync(int descriptor) override {
    step();
    const std::string path = open_[descriptor];
    if (std::filesystem::is_directory(path)) {
      renames_.clear();
    } else {
      unsynced_.erase(path);
    }
    return FileSystem::sync(descriptor);
  }
  int close(int descriptor) override {
    if (off_) {
      FileSystem::close(descriptor);
      errno = EIO;
      return -1;
    }
    FileSystem::close(descriptor);
    step();
    return 0;
  }
  int rename(const char* from, const char* to) override {
    step();
    Rename rename{from, to, std::filesystem::exists(to), {}};
    if (rename.replaced) rename.old_contents = read_file(to, raise_as<CheckpointError>);
    renames_.push_back(rename);
    if (unsynced_.erase(from) > 0) unsynced_[to] = true;
    return FileSystem::rename(from, to);
  }
  int remove(const char* path) override {
    if (off_) return -1;  // a cut is no time for destructors to tidy up
    step();
    return FileSystem::remove(path);
  }

  void lose_unsynced(bool undo_renames) {
    for (const auto& [path, lost] : unsynced_) {
      if (lost && std::filesystem::exists(path)) std::filesystem::resize_file(path, 0);
    }
    if (!undo_renames) return;
    for (auto rename = renames_.rbegin(); rename != renames_.rend(); ++rename) {
      if (!std::filesystem::exists(rename->to)) continue;  // gone with its folder
      std::filesystem::rename(rename->to, rename->from);
      if (rename->replaced) {
        write_file_atomically(real_file_system(), rename->to, bytes_of(rename->old_contents),
                              raise_as<CheckpointError>);
      }
    }
  }

 private:
  struct Rename {
    std::string from, to;
    bool replaced;
    std::string old_contents;
  };
  void step() {
    if (off_ || calls_++ == cut_at_) {
      off_ = true;
      throw PowerCut();
    }
  }
  int64_t cut_at_;
  int64_t calls_ = 0;
  bool off_ = false;
  std::map<int, std::string> open_;
  std::map<std::string, bool> unsynced_;
  std::vector<Rename> renames_;
};

}  // namespace sluice::testing
