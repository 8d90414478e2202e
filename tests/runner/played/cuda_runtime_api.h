// The part of the CUDA runtime that examples/cpp uses, played in host memory.
#pragma once
#include <cstdlib>
#include <cstring>

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaMalloc(void** pointer, std::size_t size) { return (*pointer = std::malloc(size)) ? 0 : 2; }
inline cudaError_t cudaFree(void* pointer) { return std::free(pointer), 0; }
inline cudaError_t cudaStreamCreate(cudaStream_t*) { return 0; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return 0; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return 0; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind, cudaStream_t) {
  return std::memcpy(to, from, size), 0;
}
