// TensorBoard: one event file in tensorboard/, continued when the run resumes.
#include <optional>

#include "autograd/support/error.h"
#include "train/metrics/event_file.h"
#include "train/metrics/sink.h"

namespace sluice {
namespace {

constexpr RaiseError kRaise = raise_as<CheckpointError>;

class TensorboardSink final : public Sink {
 public:
  explicit TensorboardSink(const SinkContext& context)
      : files_(*context.files),
        // TensorBoard looks for "tfevents" in the name and reads the numbers as the time of
        // creation.
        path_(context.folder / "tensorboard" / "events.out.tfevents.0000000000.sluice"),
        wall_clock_(context.wall_clock) {
    create_folders(files_, path_.parent_path(), kRaise);
  }

  void truncate_after(int64_t step) override {
    if (!std::filesystem::exists(path_)) return;
    const std::string events = read_file(path_, kRaise);
    const std::string kept = step < 0 ? "" : events_up_to(events, step);
    if (kept != events) write_file_atomically(files_, path_, bytes_of(kept), kRaise);
  }

  void record(const Record& record) override { append(summary_event(wall_clock_(), record)); }

  void flush() override {
    if (file_) file_->sync();
  }

 private:
  void append(const std::string& event) {
    if (!file_) {
      std::error_code absent;
      const bool is_new = std::filesystem::file_size(path_, absent) == 0 || absent;
      file_.emplace(files_, path_, kRaise);
      if (is_new) file_->append(bytes_of(tfrecord_frame(version_event(wall_clock_()))));
    }
    file_->append(bytes_of(tfrecord_frame(event)));
  }

  FileSystem& files_;
  std::filesystem::path path_;
  std::function<double()> wall_clock_;
  std::optional<AppendFile> file_;
};

}  // namespace

std::unique_ptr<Sink> make_tensorboard_sink(const SinkContext& context) {
  return std::make_unique<TensorboardSink>(context);
}

}  // namespace sluice
