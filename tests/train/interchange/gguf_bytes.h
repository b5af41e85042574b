#pragma once
// GGUF files put together by hand, byte for byte, sound ones and others.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sluice::testing {

class GgufBytes {
 public:
  template <class T>
  GgufBytes& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufBytes& text(const std::string& text) {
    put<uint64_t>(text.size());
    bytes_ += text;
    return *this;
  }
  GgufBytes& head(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    bytes_ += "GGUF";
    return put(version).put(tensors).put(keys);
  }
  /// A text, a bool, an f32 or a u32.
  GgufBytes& key(const std::string& name, const nlohmann::json& value) {
    text(name);
    if (value.is_string()) return put<uint32_t>(8).text(value.get<std::string>());
    if (value.is_boolean()) return put<uint32_t>(7).put<uint8_t>(value.get<bool>() ? 1 : 0);
    if (value.is_number_float()) return put<uint32_t>(6).put(value.get<float>());
    return put<uint32_t>(4).put(value.get<uint32_t>());
  }
  /// `sizes`: innermost first.
  GgufBytes& tensor(const std::string& name, const std::vector<uint64_t>& sizes, uint32_t type,
                    uint64_t offset) {
    text(name).put(static_cast<uint32_t>(sizes.size()));
    for (const uint64_t size : sizes) put(size);
    return put(type).put(offset);
  }
  /// Pads, then so many zeros.
  GgufBytes& data(size_t bytes) { return pad(32).raw(std::string(bytes, '\0')); }
  GgufBytes& pad(size_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  GgufBytes& raw(const std::string& bytes) {
    bytes_ += bytes;
    return *this;
  }
  [[nodiscard]] const std::string& all() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace sluice::testing
