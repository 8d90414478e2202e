// The part of TensorRT 10 that examples/cpp uses, played on the CPU: an engine file is one float, and the logits are
// that float times the mean of each channel. It takes batches of 2 to 4.
#pragma once
#include <cstdint>
#include <cstring>

#include "cuda_runtime_api.h"

namespace nvinfer1 {
class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};
struct Dims {
  int32_t nbDims;
  int64_t d[8];
};
struct Dims4 : Dims {
  Dims4(int64_t a, int64_t b, int64_t c, int64_t e) : Dims{4, {a, b, c, e}} {}
};
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };

class IExecutionContext {
 public:
  explicit IExecutionContext(float gain) : gain_(gain) {}
  bool setInputShape(const char* name, const Dims& shape) noexcept {
    shape_ = shape;
    return !std::strcmp(name, "images") && shape.d[0] >= 2 && shape.d[0] <= 4;
  }
  bool setTensorAddress(const char* name, void* data) noexcept {
    (std::strcmp(name, "images") ? logits_ : images_) = static_cast<float*>(data);
    return true;
  }
  bool enqueueV3(cudaStream_t) noexcept {
    const int64_t pixels = shape_.d[2] * shape_.d[3];
    for (int64_t i = 0; i < shape_.d[0] * shape_.d[1]; ++i) {
      double sum = 0;
      for (int64_t p = 0; p < pixels; ++p) sum += images_[i * pixels + p];
      logits_[i] = static_cast<float>(gain_ * sum / pixels);
    }
    return true;
  }

 private:
  float gain_;
  Dims shape_{};
  float* images_ = nullptr;
  float* logits_ = nullptr;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(float gain) : gain_(gain) {}
  IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext(gain_); }
  int32_t getNbIOTensors() const noexcept { return 2; }
  const char* getIOTensorName(int32_t i) const noexcept { return i == 0 ? "images" : "logits"; }
  TensorIOMode getTensorIOMode(const char* name) const noexcept {
    return std::strcmp(name, "images") ? TensorIOMode::kOUTPUT : TensorIOMode::kINPUT;
  }
  Dims getTensorShape(const char*) const noexcept { return Dims4(-1, 3, 4, 4); }
  Dims getProfileShape(const char*, int32_t, OptProfileSelector which) const noexcept {
    return Dims4(which == OptProfileSelector::kMIN ? 2 : 4, 3, 4, 4);
  }

 private:
  float gain_;
};

class IRuntime {
 public:
  ICudaEngine* deserializeCudaEngine(const void* bytes, std::size_t size) noexcept {
    float gain = 0;
    if (size != sizeof gain) return nullptr;
    std::memcpy(&gain, bytes, size);
    return new ICudaEngine(gain);
  }
};
inline IRuntime* createInferRuntime(ILogger&) noexcept { return new IRuntime; }
}  // namespace nvinfer1
