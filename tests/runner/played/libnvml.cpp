// The NVML calls that toolchain/runner/nvml.py makes, with NVIDIA's signatures (nvml.h), for one GPU that a test sets up.
#include <cstring>

using Code = int;
struct Gpu {
  unsigned milliwatts, mhz[3], celsius, processes;
  unsigned long long reasons, millijoules;
};
static Gpu gpu;
static int ready = 0;
constexpr Code kUninitialized = 1, kInvalidArgument = 2, kNotSupported = 3, kNotFound = 6, kInsufficientSize = 7;

extern "C" {
void play(unsigned milliwatts, unsigned sm, unsigned memory, unsigned celsius, unsigned processes,
          unsigned long long reasons, unsigned long long millijoules) {
  gpu = {milliwatts, {0, sm, memory}, celsius, processes, reasons, millijoules};
}
Code nvmlInit_v2() { return ready = 1, 0; }
Code nvmlDeviceGetHandleByUUID(const char* uuid, void** handle) {
  if (!ready) return kUninitialized;
  return *handle = &gpu, std::strcmp(uuid, "GPU-00112233-4455-6677-8899-aabbccddeeff") ? kNotFound : 0;
}
Code nvmlDeviceGetPowerUsage(void* of, unsigned* milliwatts) {
  if (of != &gpu) return kInvalidArgument;
  return *milliwatts = gpu.milliwatts, gpu.milliwatts ? 0 : kNotSupported;
}
Code nvmlDeviceGetClockInfo(void* of, int which, unsigned* mhz) {
  if (of != &gpu || which < 0 || which > 2) return kInvalidArgument;
  return *mhz = gpu.mhz[which], *mhz ? 0 : kNotSupported;
}
Code nvmlDeviceGetTemperature(void* of, int sensor, unsigned* celsius) {
  if (of != &gpu || sensor != 0) return kInvalidArgument;
  return *celsius = gpu.celsius, gpu.celsius ? 0 : kNotSupported;
}
Code nvmlDeviceGetCurrentClocksThrottleReasons(void* of, unsigned long long* reasons) {
  return *reasons = gpu.reasons, of == &gpu ? 0 : kInvalidArgument;
}
Code nvmlDeviceGetTotalEnergyConsumption(void* of, unsigned long long* millijoules) {
  if (of != &gpu) return kInvalidArgument;
  return *millijoules = gpu.millijoules, gpu.millijoules ? 0 : kNotSupported;
}
Code nvmlDeviceGetComputeRunningProcesses_v3(void* of, unsigned* count, void* infos) {
  if (of != &gpu || infos != nullptr || *count != 0) return kInvalidArgument;
  return *count = gpu.processes, gpu.processes ? kInsufficientSize : 0;
}
}
