#pragma once
// Makes items ahead of their use, on a thread of its own.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

namespace sluice {

/// Calls `produce` on one thread and keeps at most `depth` results that nobody has taken; with
/// depth 0 calls it in next(), without a thread. The destructor lets a call in progress end, and
/// drops what was made.
template <class Item>
class Prefetcher {
 public:
  Prefetcher(std::function<Item()> produce, int64_t depth)
      : produce_(std::move(produce)), depth_(depth) {
    if (depth_ > 0) thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }

  /// The next item in order; waits for it. What `produce` threw is thrown here, in its item's place
  /// and at every call after.
  Item next() {
    if (depth_ == 0) return produce_();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || error_ != nullptr; });
    if (ready_.empty()) std::rethrow_exception(error_);
    Item item = std::move(ready_.front());
    ready_.pop_front();
    changed_.notify_all();
    return item;
  }

 private:
  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      try {
        Item item = produce_();
        std::unique_lock lock(mutex_);
        const auto has_room = [&] { return static_cast<int64_t>(ready_.size()) < depth_; };
        if (!changed_.wait(lock, stop, has_room)) return;
        ready_.push_back(std::move(item));
      } catch (...) {
        const std::lock_guard lock(mutex_);
        error_ = std::current_exception();
        changed_.notify_all();
        return;
      }
      changed_.notify_all();
    }
  }

  std::function<Item()> produce_;
  int64_t depth_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Item> ready_;
  std::exception_ptr error_;
  std::jthread thread_;  // last: it is joined before what it uses goes away
};

}  // namespace sluice
