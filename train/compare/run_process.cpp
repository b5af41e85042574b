#include "train/compare/run_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr int kSignalBase = 128;
constexpr int kCannotExecute = 127;

int status_of(int status) {
  return WIFSIGNALED(status) ? kSignalBase + WTERMSIG(status) : WEXITSTATUS(status);
}

/// Between fork and exec: system calls only.
[[noreturn]] void become(const char* program, char* const* arguments, int console, pid_t parent) {
  // A killed parent must not leave runs behind that hold their folders' locks.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const bool is_orphan = ::getppid() != parent;
  if (!is_orphan && ::dup2(console, STDOUT_FILENO) >= 0 && ::dup2(console, STDERR_FILENO) >= 0) {
    ::execv(program, arguments);
  }
  ::_exit(kCannotExecute);
}

}  // namespace

RunProcess::RunProcess(const RunProcessOptions& options) {
  std::vector<std::string> words = {options.program.string(),
                                    "train",
                                    options.recipe.string(),
                                    "--out",
                                    options.folder.string(),
                                    "--set",
                                    fmt::format("threads={}", options.threads)};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int console =
      ::open(options.console.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  SLUICE_CHECK(CheckpointError, console >= 0, "{}: cannot be opened: {}", options.console.string(),
               std::strerror(errno));
  const pid_t parent = ::getpid();
  process_ = ::fork();
  if (process_ == 0) become(arguments[0], arguments.data(), console, parent);
  ::close(console);
  SLUICE_CHECK(CommError, process_ > 0, "a process for {} cannot be started: {}",
               options.folder.string(), std::strerror(errno));
}

RunProcess::RunProcess(RunProcess&& other) noexcept : process_(std::exchange(other.process_, -1)) {}

RunProcess::~RunProcess() {
  if (process_ <= 0) return;
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
}

void RunProcess::interrupt() const {
  if (process_ > 0) ::kill(process_, SIGTERM);
}

std::optional<RunExit> RunProcess::poll() {
  int status = 0;
  struct rusage used {};
  if (process_ <= 0 || ::wait4(process_, &status, WNOHANG, &used) != process_) return std::nullopt;
  process_ = -1;
  constexpr int64_t kKibibyte = 1024;  // ru_maxrss counts these
  return RunExit{.status = status_of(status), .peak_resident_bytes = used.ru_maxrss * kKibibyte};
}

std::string last_message(const std::filesystem::path& console, int64_t offset) {
  constexpr std::string_view kPrefix = "sluice: ";
  std::ifstream in(console, std::ios::binary);
  in.seekg(offset);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  const size_t start = text.rfind(kPrefix);
  if (start == std::string::npos) return {};
  text.erase(0, start + kPrefix.size());
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace sluice
