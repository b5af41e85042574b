#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr RaiseError kRaise = raise_as<CheckpointError>;

// What the holder wrote into the lock file: its process id.
std::string holder_of(int lock) {
  std::array<char, 32> text{};
  const ssize_t bytes = ::pread(lock, text.data(), text.size(), 0);
  std::string holder(text.data(), static_cast<size_t>(std::max<ssize_t>(bytes, 0)));
  holder.erase(std::min(holder.find('\n'), holder.size()));
  return holder.empty() ? "another process" : "process " + holder;
}

// The system gives up the lock with the last descriptor, so a killed process leaves none behind.
// The file itself stays: removing it would let two processes hold locks on two files of one name.
int lock_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "lock";
  constexpr mode_t kReadableByAll = 0644;
  const int lock = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kReadableByAll);
  SLUICE_CHECK(CheckpointError, lock >= 0, "{}: cannot open: {}", path.string(),
               std::generic_category().message(errno));
  if (::flock(lock, LOCK_EX | LOCK_NB) != 0) {
    const std::string holder = holder_of(lock);
    ::close(lock);
    throw CheckpointError(fmt::format(
        "{}: in use by {}; stop it, or choose another folder with --out", folder.string(), holder));
  }
  // The id is a courtesy to whoever is refused: failing to write it fails nothing.
  const std::string id = fmt::format("{}\n", ::getpid());
  if (::ftruncate(lock, 0) == 0) (void)!::pwrite(lock, id.data(), id.size(), 0);
  return lock;
}

}  // namespace

RunFolder::RunFolder(std::filesystem::path folder, FileSystem* files, int lock)
    : folder_(std::move(folder)), files_(files), lock_(lock) {}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : folder_(std::move(other.folder_)),
      files_(other.files_),
      lock_(std::exchange(other.lock_, -1)) {}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

RunFolder RunFolder::open_for_writing(const std::filesystem::path& folder, FileSystem& files) {
  create_folders(files, folder, kRaise);
  RunFolder run(folder, &files, lock_folder(folder));
  (void)remove_stale_temporaries(files, folder);
  return run;
}

RunFolder RunFolder::open_for_reading(const std::filesystem::path& folder) {
  SLUICE_CHECK(ConfigError, std::filesystem::is_directory(folder), "{}: no such run folder",
               folder.string());
  return {folder, &real_file_system(), -1};
}

std::optional<std::string> RunFolder::read_recipe() const {
  if (!std::filesystem::exists(recipe())) return std::nullopt;
  return read_file(recipe(), kRaise);
}

void RunFolder::write_recipe(const std::string& text) const {
  write_file_atomically(*files_, recipe(), bytes_of(text), kRaise);
}

void RunFolder::write_overview(const std::string& text) const {
  write_file_atomically(*files_, overview(), bytes_of(text), kRaise);
}

void RunFolder::write_report(const std::string& text) const {
  write_file_atomically(*files_, report(), bytes_of(text), kRaise);
}

void RunFolder::write_profile(const std::string& text) const {
  write_file_atomically(*files_, profile(), bytes_of(text), kRaise);
}

std::filesystem::path RunFolder::pruning(int64_t step) const {
  return folder_ / "pruning" / fmt::format("step_{:08}.json", step);
}

void RunFolder::write_pruning(int64_t step, const std::string& text) const {
  create_folders(*files_, pruning(step).parent_path(), kRaise);
  write_file_atomically(*files_, pruning(step), bytes_of(text), kRaise);
}

void RunFolder::write_upcycling(const std::string& text) const {
  write_file_atomically(*files_, upcycling(), bytes_of(text), kRaise);
}

}  // namespace sluice
