#pragma once
// SIGINT, SIGTERM and SIGHUP as a question that the training loop asks between steps.

#include <csignal>

namespace sluice {

/// While it lives, these signals are noted instead of ending the program. A second SIGINT ends it
/// at once; SIGTERM and SIGHUP, which reach a process and its group twice, may come as often as they
/// like. One at a time in a process.
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
  struct sigaction old_hangup_ {};
};

}  // namespace sluice
