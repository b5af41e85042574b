#pragma once
// The folder of one run, and the lock that keeps a second process out of it.
//
//   runs/<name>/  recipe.yaml  overview.json  metrics.jsonl  routing.jsonl  checkpoints/  traces/
//                 tensorboard/  report.html  profile.json  upcycling.json  pruning/  lock
//
//   RunFolder run = RunFolder::open_for_writing("runs/quickstart");   // creates, locks
//   run.write_recipe(resolved);

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "autograd/support/file.h"

namespace sluice {

class RunFolder {
 public:
  /// Creates the folder if need be and takes its lock, which lasts until this object or the process
  /// ends, however it ends. Throws CheckpointError when another process holds it ("runs/a: in use
  /// by process 4711; ...") or when the folder cannot be created.
  [[nodiscard]] static RunFolder open_for_writing(const std::filesystem::path& folder,
                                                  FileSystem& files = real_file_system());
  /// For commands that only look: no lock. Throws ConfigError when there is no such folder.
  [[nodiscard]] static RunFolder open_for_reading(const std::filesystem::path& folder);

  RunFolder(RunFolder&&) noexcept;
  RunFolder& operator=(RunFolder&&) = delete;
  ~RunFolder();

  [[nodiscard]] const std::filesystem::path& path() const { return folder_; }
  [[nodiscard]] std::filesystem::path recipe() const { return folder_ / "recipe.yaml"; }
  [[nodiscard]] std::filesystem::path metrics() const { return folder_ / "metrics.jsonl"; }
  /// Loads, probes and alarms (train/metrics).
  [[nodiscard]] std::filesystem::path routing() const { return folder_ / "routing.jsonl"; }
  /// What was known before the first step (overview.h).
  [[nodiscard]] std::filesystem::path overview() const { return folder_ / "overview.json"; }
  [[nodiscard]] std::filesystem::path checkpoints() const { return folder_ / "checkpoints"; }
  [[nodiscard]] std::filesystem::path traces() const { return folder_ / "traces"; }
  [[nodiscard]] std::filesystem::path report() const { return folder_ / "report.html"; }
  /// Of the last profiled process (train/profile/trace_events.h).
  [[nodiscard]] std::filesystem::path profile() const { return folder_ / "profile.json"; }

  /// What upcycling changed (train/transforms/receipt.h).
  [[nodiscard]] std::filesystem::path upcycling() const { return folder_ / "upcycling.json"; }
  /// What the last stage of train.pruning after a step changed (train/transforms/transform.h).
  [[nodiscard]] std::filesystem::path pruning(int64_t step) const;

  /// The resolved recipe of the run, or nothing when none was started here.
  [[nodiscard]] std::optional<std::string> read_recipe() const;
  /// These replace a file atomically. CheckpointError.
  void write_recipe(const std::string& text) const;
  void write_overview(const std::string& text) const;
  void write_report(const std::string& text) const;
  void write_profile(const std::string& text) const;
  void write_upcycling(const std::string& text) const;
  void write_pruning(int64_t step, const std::string& text) const;

 private:
  RunFolder(std::filesystem::path folder, FileSystem* files, int lock);
  std::filesystem::path folder_;
  FileSystem* files_;
  int lock_;  // descriptor of the lock file, -1 without
};

}  // namespace sluice
