#pragma once
// SIGINT and SIGTERM as a question that the training loop asks between steps.

#include <csignal>

namespace sluice {

/// While it lives, the first SIGINT or SIGTERM is noted instead of ending the program; the second
/// ends it at once. One at a time in a process.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  /// Number of the signal that arrived; 0 for none.
  [[nodiscard]] int received() const;

 private:
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
};

}  // namespace sluice
