#pragma once
// A disk that is full for this process: files that can grow to so many bytes only.

#include <sys/resource.h>

namespace sluice::testing {

/// Files of this process, and of those it starts, can grow to so many bytes. A write beyond raises
/// SIGXFSZ, and fails where that is ignored.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
};

}  // namespace sluice::testing
