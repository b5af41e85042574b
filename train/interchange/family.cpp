#include "train/interchange/family.h"

namespace sluice {
namespace {

#define SLUICE_FAMILY(name) &name##_family,
constexpr const Family* kFamilies[] = {
#include "train/interchange/families.def"
};
#undef SLUICE_FAMILY

}  // namespace

const Registry<Family>& family_registry() {
  static const Registry<Family> registry("model_type", kFamilies);
  return registry;
}

}  // namespace sluice
