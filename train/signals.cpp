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
  // Back to the default after the first, so that a second one ends a program that does not come to
  // the end of its step; system calls go on.
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &old_interrupt_);
  sigaction(SIGTERM, &action, &old_terminate_);
}

SignalWatch::~SignalWatch() {
  sigaction(SIGINT, &old_interrupt_, nullptr);
  sigaction(SIGTERM, &old_terminate_, nullptr);
}

int SignalWatch::received() const { return received_signal; }

}  // namespace sluice
