// The tables of mixers, feed-forwards and routers, from their .def lists.

#include "autograd/support/choices.h"
#include "autograd/support/registry.h"
#include "layers/router.h"
#include "layers/sublayer.h"

namespace sluice {

namespace {

#define SLUICE_MIXER(name) &name##_mixer,
constexpr const MixerEntry* kMixers[] = {
#include "layers/mixers.def"
};
#undef SLUICE_MIXER

#define SLUICE_FEED_FORWARD(name) &name##_feed_forward,
constexpr const FeedForwardEntry* kFeedForwards[] = {
#include "layers/ffns.def"
};
#undef SLUICE_FEED_FORWARD

#define SLUICE_ROUTER(name) &name##_router,
constexpr const RouterEntry* kRouters[] = {
#include "layers/routers.def"
};
#undef SLUICE_ROUTER

#define SLUICE_MIXER(name) #name,
#define SLUICE_FEED_FORWARD(name) #name,
constexpr std::string_view kLayerNames[] = {
#include "layers/ffns.def"
#include "layers/mixers.def"
};
#undef SLUICE_MIXER
#undef SLUICE_FEED_FORWARD
static_assert(all_distinct(kLayerNames), "two lines of mixers.def and ffns.def have the same name");

#define SLUICE_ROUTER(name) #name,
constexpr std::string_view kRouterNames[] = {
#include "layers/routers.def"
};
#undef SLUICE_ROUTER
static_assert(all_distinct(kRouterNames), "two lines of routers.def have the same name");

}  // namespace

std::span<const MixerEntry* const> mixer_table() { return kMixers; }
std::span<const FeedForwardEntry* const> feed_forward_table() { return kFeedForwards; }

const Registry<RouterEntry>& router_registry() {
  static const Registry<RouterEntry> registry("router", kRouters);
  return registry;
}

std::span<const Choice> router_choices() {
  static const std::vector<Choice> choices = choices_of<RouterEntry>(kRouters);
  return choices;
}

}  // namespace sluice
