#pragma once
// TensorBoard event files: TFRecord frames around protocol buffers
// (tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto), of which Sluice
// needs scalars and histograms.
//
// A frame is: u64 length, u32 masked CRC-32C of the length, the bytes, u32 masked CRC-32C of the
// bytes; little-endian. A mask is ((crc >> 15) | (crc << 17)) + 0xa282ead8
// (tensorflow/core/lib/hash/crc32c.h).

#include <cstdint>
#include <string>
#include <string_view>

#include "train/metrics/metric.h"

namespace sluice {

/// One frame.
[[nodiscard]] std::string tfrecord_frame(std::string_view bytes);

/// The event that begins a file: its version.
[[nodiscard]] std::string version_event(double wall_time);

/// The values and histograms of a record under their names. TensorBoard keeps scalars in single
/// precision.
[[nodiscard]] std::string summary_event(double wall_time, const Record& record);

/// The frames of an event file that are whole and of a step up to `step`, byte for byte; everything
/// from the first broken frame on is dropped.
[[nodiscard]] std::string events_up_to(std::string_view file, int64_t step);

}  // namespace sluice
