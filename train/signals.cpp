#include "train/signals.h"

#include <atomic>

namespace sluice {
namespace {

// A handler can reach nothing but a global; this is all it touches, on whatever thread it runs.
std::atomic<int> received_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free);

void note_signal(int signal) { received_signal = signal; }

}  // namespace

SignalWatch::SignalWatch() {
  received_signal = 0;
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, &old_terminate_);
  sigaction(SIGHUP, &action, &old_hangup_);
  // Back to the default after the first, so that a second Ctrl-C ends a program that does not come
  // to the end of its step.
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigaction(SIGINT, &action, &old_interrupt_);
}

SignalWatch::~SignalWatch() {
  sigaction(SIGINT, &old_interrupt_, nullptr);
  sigaction(SIGTERM, &old_terminate_, nullptr);
  sigaction(SIGHUP, &old_hangup_, nullptr);
}

int SignalWatch::received() const { return received_signal; }

}  // namespace sluice
