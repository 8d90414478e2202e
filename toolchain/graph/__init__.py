"""ONNX in, ONNX out: one pass per file, each given an onnx-ir model and changing it in place."""
