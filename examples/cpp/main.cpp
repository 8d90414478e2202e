// golden BUNDLE_FOLDER [ENGINE_FILE]: the golden images through a TensorRT engine, and its answers held against those
// of where it was built. Exit code 0: they hold; 1: they do not; 2: it could not be run. TensorRT 10.3 to 11.x.
//
// Nothing here checks signatures: unpack a bundle with `run.py install`, which does, and give its slot.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bundle.h"

namespace {

constexpr int kPixels = kImageSize * kImageSize;

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", message);
  }
};

std::vector<char> Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A slot holds the engine that was shipped, or the one that the device built for itself.
std::string EngineFile(const std::string& folder) {
  for (const char* name : {"/built/engine.trt", "/engine/engine.trt"}) {
    if (std::ifstream(folder + name).good()) return folder + name;
  }
  throw std::runtime_error(folder + ": holds no engine.trt; name the engine file");
}

// uint8 (S, S, 3) -> float32 (3, S, S) = (x / 255 - mean) / std
void Normalize(const std::uint8_t* image, float* out) {
  for (int c = 0; c < 3; ++c) {
    for (int i = 0; i < kPixels; ++i) {
      const float scaled = static_cast<float>(image[3 * i + c]) / 255.0f;
      out[c * kPixels + i] = (scaled - kMean[c]) / kStd[c];
    }
  }
}

void Check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
}

int Largest(const float* logits) {
  int best = 0;
  for (int k = 1; k < kClasses; ++k) {
    if (logits[k] > logits[best]) best = k;
  }
  return best;
}

class Network {
 public:
  explicit Network(const std::string& path) {
    const std::vector<char> bytes = Read(path);
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (engine_) context_.reset(engine_->createExecutionContext());
    if (!context_) throw std::runtime_error(path + ": this TensorRT cannot open it");
    for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      const bool is_input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      (is_input ? input_ : output_) = name;
    }
    batch_ = engine_->getTensorShape(input_.c_str()).d[0];  // -1: as its profile allows
    if (batch_ < 0) {
      batch_ = engine_->getProfileShape(input_.c_str(), 0, nvinfer1::OptProfileSelector::kMIN).d[0];
    }
    Check(cudaStreamCreate(&stream_), "a stream");
    Check(cudaMalloc(&images_, sizeof(float) * batch_ * 3 * kPixels), "memory for images");
    Check(cudaMalloc(&logits_, sizeof(float) * batch_ * kClasses), "memory for logits");
    const nvinfer1::Dims4 shape(batch_, 3, kImageSize, kImageSize);
    if (!context_->setInputShape(input_.c_str(), shape) ||
        !context_->setTensorAddress(input_.c_str(), images_) ||
        !context_->setTensorAddress(output_.c_str(), logits_)) {
      throw std::runtime_error(path + ": does not take images of this shape");
    }
  }

  ~Network() {
    cudaFree(images_);
    cudaFree(logits_);
    cudaStreamDestroy(stream_);
  }

  // The logits of one image; it fills the engine's smallest batch.
  std::vector<float> Logits(const std::uint8_t* image) {
    std::vector<float> images(static_cast<std::size_t>(batch_) * 3 * kPixels);
    for (int n = 0; n < batch_; ++n) Normalize(image, images.data() + static_cast<std::size_t>(n) * 3 * kPixels);
    std::vector<float> logits(static_cast<std::size_t>(batch_) * kClasses);
    Check(cudaMemcpyAsync(images_, images.data(), sizeof(float) * images.size(), cudaMemcpyHostToDevice, stream_),
          "copying in");
    if (!context_->enqueueV3(stream_)) throw std::runtime_error("the engine could not be run");
    Check(cudaMemcpyAsync(logits.data(), logits_, sizeof(float) * logits.size(), cudaMemcpyDeviceToHost, stream_),
          "copying out");
    Check(cudaStreamSynchronize(stream_), "running");
    logits.resize(kClasses);
    return logits;
  }

 private:
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;  // in this order: what was made last goes first
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::string input_, output_;
  int batch_ = 1;
  cudaStream_t stream_ = nullptr;
  void* images_ = nullptr;
  void* logits_ = nullptr;
};

int Replay(const std::string& folder, const std::string& engine) {
  const std::vector<char> images = Read(folder + "/golden.images.u8");
  const std::vector<char> golden = Read(folder + "/golden.logits.f32");  // little-endian, as these machines are
  if (images.size() != static_cast<std::size_t>(kGoldenImages) * 3 * kPixels ||
      golden.size() != sizeof(float) * kGoldenImages * kClasses) {
    throw std::runtime_error(folder + ": is another bundle than this program was built for");
  }
  const auto* expected = reinterpret_cast<const float*>(golden.data());
  Network network(engine);
  double away = 0, norm = 0;
  bool same = true;
  for (int n = 0; n < kGoldenImages; ++n) {
    const auto* image = reinterpret_cast<const std::uint8_t*>(images.data()) + static_cast<std::size_t>(n) * 3 * kPixels;
    const std::vector<float> logits = network.Logits(image);
    const float* wanted = expected + static_cast<std::size_t>(n) * kClasses;
    for (int k = 0; k < kClasses; ++k) {
      away += std::pow(static_cast<double>(logits[k]) - wanted[k], 2);
      norm += std::pow(static_cast<double>(wanted[k]), 2);
    }
    same = same && Largest(logits.data()) == Largest(wanted);
    std::printf("golden image %d: %s, expected %s\n", n, kLabels[Largest(logits.data())], kLabels[Largest(wanted)]);
  }
  const double distance = norm > 0 ? std::sqrt(away / norm) : std::sqrt(away);
  const bool holds = same && distance <= kTolerance;  // false for NaN too
  std::printf("distance %.3g, allowed %.3g: golden answers %s\n", distance, kTolerance, holds ? "hold" : "do not hold");
  return holds ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  if (count != 2 && count != 3) {
    std::fprintf(stderr, "golden BUNDLE_FOLDER [ENGINE_FILE]\n");
    return 2;
  }
  try {
    return Replay(words[1], count == 3 ? words[2] : EngineFile(words[1]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
