#include "train/metrics/event_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "autograd/support/checksum.h"
#include "autograd/support/file.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

// A protocol buffer taken apart: field number to its values, raw.
using Message = std::multimap<uint64_t, std::string>;

uint64_t varint_of(std::string_view& bytes) {
  uint64_t number = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes.front());
    bytes.remove_prefix(1);
    number |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return number;
  }
}

Message parse(std::string_view bytes) {
  Message message;
  while (!bytes.empty()) {
    const uint64_t key = varint_of(bytes);
    std::string value;
    if ((key & 7) == 0) {
      const uint64_t number = varint_of(bytes);
      value.assign(reinterpret_cast<const char*>(&number), sizeof(number));
    } else {
      const size_t size = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : varint_of(bytes);
      value = bytes.substr(0, size);
      bytes.remove_prefix(size);
    }
    message.emplace(key >> 3, value);
  }
  return message;
}

template <class T>
std::vector<T> numbers_in(const std::string& bytes) {
  std::vector<T> numbers(bytes.size() / sizeof(T));
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

const std::string& field(const Message& message, uint64_t number) {
  return message.find(number)->second;
}

Record record_at(int64_t step) {
  Record record{.step = step};
  record.add(metrics::train_loss, 0.1);
  const std::vector<int64_t> counts{5, 0, 7};
  record.histograms.push_back(Histogram::of_counts("load/tokens/0", counts));
  return record;
}

TEST(EventFile, FramesCarryTheChecksumsOfTheFormat) {
  // "hello" as TensorFlow's record writer stores it: length, masked CRC, bytes, masked CRC.
  const std::string frame = tfrecord_frame("hello");
  ASSERT_EQ(frame.size(), 8u + 4 + 5 + 4);
  EXPECT_EQ(numbers_in<uint64_t>(frame.substr(0, 8))[0], 5u);
  const uint32_t crc = crc32c(bytes_of("hello"));
  EXPECT_EQ(crc, 0x9A71BB4Cu);
  EXPECT_EQ(numbers_in<uint32_t>(frame.substr(17))[0], ((crc >> 15) | (crc << 17)) + 0xA282EAD8u);
}

TEST(EventFile, BeginsWithItsVersion) {
  const Message event = parse(version_event(12.5));
  EXPECT_EQ(numbers_in<double>(field(event, 1))[0], 12.5);
  EXPECT_EQ(field(event, 3), "brain.Event:2");
}

TEST(EventFile, KeepsScalarsUnderTheirNames) {
  const Message event = parse(summary_event(1.0, record_at(300)));
  EXPECT_EQ(numbers_in<uint64_t>(field(event, 2))[0], 300u);
  const Message summary = parse(field(event, 5));
  ASSERT_EQ(summary.count(1), 2u);
  const Message value = parse(field(summary, 1));
  EXPECT_EQ(field(value, 1), "train/loss");
  EXPECT_EQ(numbers_in<float>(field(value, 2))[0], 0.1f);
}

TEST(EventFile, KeepsHistogramsByExpert) {
  const Message event = parse(summary_event(1.0, record_at(300)));
  const Message summary = parse(field(event, 5));
  const Message value = parse(std::next(summary.begin())->second);
  EXPECT_EQ(field(value, 1), "load/tokens/0");
  const Message histogram = parse(field(value, 5));
  EXPECT_THAT(numbers_in<double>(field(histogram, 6)), ElementsAre(1, 2, 3));
  EXPECT_THAT(numbers_in<double>(field(histogram, 7)), ElementsAre(5, 0, 7));
  EXPECT_EQ(numbers_in<double>(field(histogram, 1))[0], 0.0);
  EXPECT_EQ(numbers_in<double>(field(histogram, 2))[0], 3.0);
  EXPECT_EQ(numbers_in<double>(field(histogram, 3))[0], 12.0);
  EXPECT_EQ(numbers_in<double>(field(histogram, 4))[0], 14.0);
  EXPECT_EQ(numbers_in<double>(field(histogram, 5))[0], 28.0);
}

TEST(EventFile, TruncatesByStepAndDropsBrokenFrames) {
  const std::string version = tfrecord_frame(version_event(1.0));
  std::vector<std::string> frames;
  for (const int64_t step : {0, 10, 200}) {
    frames.push_back(tfrecord_frame(summary_event(1.0, record_at(step))));
  }
  const std::string whole = version + frames[0] + frames[1] + frames[2];
  EXPECT_EQ(events_up_to(whole, 200), whole);
  EXPECT_EQ(events_up_to(whole, 199), version + frames[0] + frames[1]);
  EXPECT_EQ(events_up_to(whole, 0), version + frames[0]);
  for (size_t cut = 1; cut < frames[2].size(); cut += 5) {
    EXPECT_EQ(events_up_to(whole.substr(0, whole.size() - cut), 200),
              version + frames[0] + frames[1]);
  }
  std::string flipped = whole;
  flipped[version.size() + frames[0].size() + 20] ^= 1;
  EXPECT_EQ(events_up_to(flipped, 200), version + frames[0]);
  EXPECT_EQ(events_up_to("", 5), "");
}

}  // namespace
}  // namespace sluice
