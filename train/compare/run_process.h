#pragma once
// One `sluice train` as a process of its own, so that a run that fails takes nothing with it.

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace sluice {

struct RunProcessOptions {
  std::filesystem::path program;  // that trains: `program train recipe --out folder ...`
  std::filesystem::path recipe;
  std::filesystem::path folder;   // of the run
  std::filesystem::path console;  // its output is appended there
  int threads = 1;
};

struct RunExit {
  int status = 0;  // as a shell tells it: 128 + n for signal n
  int64_t peak_resident_bytes = 0;
};

/// The process dies with the one that started it.
class RunProcess {
 public:
  /// Throws CommError when it cannot be started.
  explicit RunProcess(const RunProcessOptions& options);
  /// Kills it when it still runs.
  ~RunProcess();
  RunProcess(RunProcess&& other) noexcept;
  RunProcess& operator=(RunProcess&&) = delete;

  /// Asks it to save and stop.
  void interrupt() const;
  /// Its end, once; nothing while it runs.
  [[nodiscard]] std::optional<RunExit> poll();

 private:
  pid_t process_ = -1;
};

/// The message with which a run ended: what stands behind the last "sluice: " of its output from
/// `offset` on, or "" when there is none.
[[nodiscard]] std::string last_message(const std::filesystem::path& console, int64_t offset);

}  // namespace sluice
