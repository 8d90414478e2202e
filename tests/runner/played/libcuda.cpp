// The driver calls that toolchain/runner/cuda.py makes, with NVIDIA's signatures (cuda.h), played in host memory. Device
// addresses lie beyond 32 bits and are no host addresses, so that a pointer cut short or mixed up is found.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using Code = int;
using Address = unsigned long long;
constexpr Address kBase = 0x7f0000000000ULL;
constexpr Code kInvalidValue = 1, kOutOfMemory = 2, kInvalidHandle = 400;
static char memory[1 << 16];
static std::size_t used = 0;
static int context, stream, current = 0, running = 0;
static float clock_ms = 0;
struct Event {
  float at;
};

extern "C" {
Code cuInit(unsigned flags) { return flags == 0 ? 0 : kInvalidValue; }
Code cuDriverGetVersion(int* version) { return *version = 12060, 0; }
Code cuDeviceGet(int* device, int ordinal) { return *device = 3, ordinal == 0 ? 0 : kInvalidValue; }
Code cuDeviceGetName(char* name, int length, int device) {
  return std::strncpy(name, "Orin (played)", static_cast<std::size_t>(length)), device == 3 ? 0 : kInvalidValue;
}
Code cuDeviceGetAttribute(int* value, int attribute, int device) {
  return *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1, device == 3 ? 0 : kInvalidValue;
}
Code cuDeviceGetUuid(unsigned char* uuid, int device) {
  for (int i = 0; i < 16; ++i) uuid[i] = static_cast<unsigned char>(16 * i + i);
  return device == 3 ? 0 : kInvalidValue;
}
Code cuDeviceTotalMem_v2(std::size_t* bytes, int device) { return *bytes = 32ULL << 30, device == 3 ? 0 : kInvalidValue; }
Code cuDevicePrimaryCtxRetain(void** made, int device) { return *made = &context, device == 3 ? 0 : kInvalidValue; }
Code cuCtxSetCurrent(void* given) { return current = given == &context, current ? 0 : kInvalidHandle; }
Code cuGetErrorName(Code code, const char** name) {
  return *name = code == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE", 0;
}
Code cuMemAlloc_v2(Address* made, std::size_t size) {
  if (!current || used + size > sizeof memory) return kOutOfMemory;
  *made = kBase + used;
  used += size;
  return 0;
}
Code cuMemFree_v2(Address given) { return given >= kBase && given < kBase + used ? 0 : kInvalidValue; }
Code cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t size, void* on) {
  if (on != &stream || to < kBase || to - kBase + size > used) return kInvalidValue;
  return std::memcpy(memory + (to - kBase), from, size), running = 1, 0;
}
Code cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t size, void* on) {
  if (on != &stream || from < kBase || from - kBase + size > used) return kInvalidValue;
  return std::memcpy(to, memory + (from - kBase), size), running = 1, 0;
}
Code cuStreamCreate(void** made, unsigned flags) { return *made = &stream, flags == 0 ? 0 : kInvalidValue; }
Code cuStreamSynchronize(void* on) { return running = 0, on == &stream ? 0 : kInvalidHandle; }
Code cuStreamDestroy_v2(void* on) { return on == &stream ? 0 : kInvalidHandle; }
Code cuEventCreate(void** made, unsigned flags) { return *made = new Event{}, flags == 0 ? 0 : kInvalidValue; }
Code cuEventRecord(void* event, void* on) {
  return static_cast<Event*>(event)->at = clock_ms += 1.5f, on == &stream ? 0 : kInvalidHandle;
}
Code cuEventSynchronize(void* event) { return event ? 0 : kInvalidHandle; }
Code cuEventElapsedTime(float* ms, void* start, void* end) {
  return *ms = static_cast<Event*>(end)->at - static_cast<Event*>(start)->at, 0;
}
Code cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), 0; }
}
