#pragma once
// The checkpoints of one run: written in the background, kept in bounds, found again.
//
//   CheckpointStore store(folder, {.keep = 3, .keep_best = true, .asynchronous = true});
//   store.open_for_writing();
//   store.save(meta, [&](StateVisitor& v) { run.visit_state(v); });    // training waits for a copy
//   store.check();      // at each step boundary: throws what went wrong in the background
//   store.finish();     // before the end: waits, throws
//
// The state is copied on all threads into an image of the file, which is the only part that
// training waits for. One thread writes, one save at a time, at the lowest priority: it takes what
// the threads that train leave, and a percent or two of what they do not. Files are named
// step_00000200.h5 and appear whole or not at all.

#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "train/checkpoint/image.h"

namespace sluice {

/// `checkpoint:` of a recipe.
struct CheckpointConfig : Configurable {
  Duration every{200, DurationUnit::steps};
  int64_t keep = 3;
  bool keep_best = true;
  bool asynchronous = true;
  void fields(FieldVisitor& visitor) override;
};

/// "step_00000200.h5"
[[nodiscard]] std::string checkpoint_name(int64_t step);

/// Which of the checkpoints in `eval_loss_of` (step to held-out loss) may be deleted: all but the
/// `keep` newest and, if asked for, the one with the lowest finite loss (the earliest of equals).
/// `keep` below 1 counts as 1.
[[nodiscard]] std::vector<int64_t> expired_checkpoints(
    const std::map<int64_t, std::optional<double>>& eval_loss_of, int64_t keep, bool keep_best);

struct StoreOptions {
  int64_t keep = 3;
  bool keep_best = true;
  bool asynchronous = true;
};

class CheckpointStore {
 public:
  /// Touches nothing yet, so that commands that only read may use it.
  CheckpointStore(std::filesystem::path folder, StoreOptions options = {},
                  FileSystem& files = real_file_system());
  /// Waits for a save in flight; call finish() first to learn of its errors.
  ~CheckpointStore();
  CheckpointStore(const CheckpointStore&) = delete;
  CheckpointStore& operator=(const CheckpointStore&) = delete;

  /// Creates the folder and removes what a crash left half-written. Only for the process that holds
  /// the run's lock.
  void open_for_writing();

  /// Takes memory for the image of a state of that size, so that the first save need not; kept, as
  /// is that of any save, as long as the store.
  void reserve(int64_t state_bytes);
  [[nodiscard]] int64_t image_bytes() const { return image_.memory_bytes(); }

  /// Writes the checkpoint under its step's name, replacing one that is there, then deletes the
  /// expired ones. Waits for the save before and throws its error; a synchronous store throws its
  /// own as well. `visit_state` as in CheckpointImage::fill. CheckpointError.
  void save(const CheckpointMeta& meta, FunctionRef<void(StateVisitor&)> visit_state);
  void save(const Checkpoint& checkpoint);
  /// Throws the error of a save that has ended, once; never waits.
  void check();
  /// Waits for the save in flight and throws its error.
  void finish();
  /// Things that went wrong without harm (an old checkpoint could not be deleted or read), one
  /// sentence each; cleared.
  [[nodiscard]] std::vector<std::string> take_warnings();

  struct Found {
    std::filesystem::path path;
    Checkpoint checkpoint;
  };
  /// The newest checkpoint that is whole, or nothing. Damaged ones are left where they are and
  /// named in `warnings`.
  [[nodiscard]] std::optional<Found> newest_valid(std::vector<std::string>& warnings) const;
  /// Steps for which there is a file, in increasing order; nothing is verified.
  [[nodiscard]] std::vector<int64_t> steps() const;
  [[nodiscard]] std::filesystem::path path_of(int64_t step) const;

 private:
  template <class Fill>
  void save_filled(const CheckpointMeta& meta, Fill&& fill);
  void write_and_expire(int64_t step, std::optional<double> eval_loss);
  void learn_losses_of_earlier_files();
  void warn(std::string warning);

  std::filesystem::path folder_;
  StoreOptions options_;
  FileSystem& files_;
  CheckpointImage image_;  // the writer's while a save is in flight
  std::future<void> in_flight_;

  // Touched by the writer alone; a save begins after the one before has been waited for.
  std::map<int64_t, std::optional<double>> eval_loss_of_;
  bool knows_earlier_files_ = false;

  std::mutex warnings_mutex_;
  std::vector<std::string> warnings_;
};

}  // namespace sluice
