#pragma once
// The program as a user runs it: a process of its own, with its output in files.

#include <fcntl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice::testing {

struct Outcome {
  int status = 0;  // exit status, or 128 + n for a process that signal n killed
  std::string output;
  std::string errors;
};

/// One run of `sluice <arguments>`, or of another program, found by its path or among the commands.
/// Killed when it is still running at the end of its scope.
class Process {
 public:
  /// Output and errors go to files in `folder`, which must exist; the output to `console` instead
  /// when it is given.
  Process(const std::filesystem::path& folder, const std::vector<std::string>& arguments,
          const std::filesystem::path& console = {}, const std::string& program = SLUICE_PROGRAM)
      : output_(folder / "output.txt"), errors_(folder / "errors.txt") {
    std::vector<std::string> all{program};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& argument : all) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    SLUICE_INTERNAL_CHECK(pid_ >= 0, "cannot start a process");
    if (pid_ == 0) {
      redirect(console.empty() ? output_ : console, STDOUT_FILENO);
      redirect(errors_, STDERR_FILENO);
      ::execvp(program.c_str(), argv.data());
      ::_exit(127);
    }
  }
  ~Process() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void send(int signal) const { ::kill(pid_, signal); }
  [[nodiscard]] bool has_ended() {
    if (pid_ > 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = 0;
    return pid_ == 0;
  }
  [[nodiscard]] Outcome wait() {
    if (pid_ > 0) ::waitpid(pid_, &status_, 0);
    pid_ = 0;
    return {WIFSIGNALED(status_) ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_),
            std::filesystem::exists(output_) ? read_file(output_, raise_as<DataError>) : "",
            read_file(errors_, raise_as<DataError>)};
  }

 private:
  static void redirect(const std::filesystem::path& file, int descriptor) {
    const int opened = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (opened < 0 || ::dup2(opened, descriptor) < 0) ::_exit(126);
  }

  std::filesystem::path output_;
  std::filesystem::path errors_;
  pid_t pid_ = 0;
  int status_ = 0;
};

[[nodiscard]] inline Outcome run_program(const std::filesystem::path& folder,
                                         const std::vector<std::string>& arguments) {
  return Process(folder, arguments).wait();
}

}  // namespace sluice::testing
