"""Networks small enough to follow by hand, as clean float files, and what a repair makes of them."""

import numpy as np
import onnx
import onnxruntime as ort

from toolchain.quantize.repair import repair
from toolchain.quantize.repair.grid import Target

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
# 3 -> 4 channels, a depthwise 3x3, then 5 channels; ReLU between. The second layer has no bias.
DEPTHWISE = """
net (float[n,3,6,6] images) => (float[n,5] logits) {
  a = Conv (images, a_weight, a_bias)
  ra = Relu(a)
  b = Conv <group = 4, pads = [1, 1, 1, 1], strides = [2, 2]> (ra, b_weight)
  rb = Relu(b)
  c = Conv (rb, c_weight, c_bias)
  p = GlobalAveragePool(c)
  logits = Reshape(p, shape)
}
"""
SHAPE = np.array([0, -1], np.int64)


def random(*shape, seed=0, scale=1.0):
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * scale).astype(np.float32)


def depthwise_weights(spread=True):
    """Weights whose channels differ by up to a factor of 64."""
    factors = np.float32([0.125, 1, 8, 2]) if spread else np.ones(4, np.float32)
    return {"a_weight": random(4, 3, 1, 1) * factors[:, None, None, None], "a_bias": random(4) * factors,
            "b_weight": random(4, 1, 3, 3) / factors[:, None, None, None], "c_weight": random(5, 4, 1, 1),
            "c_bias": random(5), "shape": SHAPE}


def write(folder, text=DEPTHWISE, name="net.onnx", **initializers):
    model = onnx.parser.parse_model(HEADER + text)
    for key, value in (initializers or depthwise_weights()).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), key))
    onnx.save(model, folder / name)
    return folder / name


def images(count=8, size=6):
    return np.random.default_rng(1).normal(size=(count, 3, size, size)).astype(np.float32)


def repaired(path, cfg, target=None, fed=None):
    """(path of the repaired file, Repaired) after one method."""
    fed = images() if fed is None else fed
    out = path.with_name("repaired.onnx")
    methods = cfg if isinstance(cfg, list) else [cfg]
    return out, repair(path, out, methods, target or Target(), lambda: iter([fed]), seed=0)


def stored(path):
    return {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def values(path, fed, *names):
    """Tensors of a file by name; the logits where none is named."""
    model = onnx.load(path)
    if names:
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: fed})
    return found if names else found[0]
