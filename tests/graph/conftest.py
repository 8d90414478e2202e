"""Networks to convert: torchvision's, with random weights and busy BatchNorm statistics, exported once a session."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torchvision.models as zoo
from torch import nn

from toolchain.graph.own import read_own_onnx
from toolchain.quantize.calibrate import calibrate
from toolchain.recipe.schema import MaxCalibrator


def small_vgg():
    plan = [16, "M", 32, "M", 64, 64, "M", 64, "M", 64, "M"]
    net = zoo.VGG(zoo.vgg.make_layers(plan, batch_norm=True), num_classes=10)
    net.avgpool = nn.Identity()
    net.classifier = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return net


NETWORKS = {
    "vgg": (small_vgg, 32),
    "resnet18": (lambda: zoo.resnet18(num_classes=10), 32),
    "mobilenet_v2": (lambda: zoo.mobilenet_v2(num_classes=10, width_mult=0.5), 32),
    "squeezenet1_1": (lambda: zoo.squeezenet1_1(num_classes=10), 64),
}


@pytest.fixture(scope="session")
def network():
    """name -> (module in eval mode, image size)."""

    def make(name):
        torch.manual_seed(0)
        constructor, size = NETWORKS[name]
        module = constructor().eval()
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.running_mean, 0, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
        return module, size

    return make


@pytest.fixture(scope="session")
def torchscript_onnx(network, tmp_path_factory):
    """(name, **export arguments) -> path of a TorchScript export at opset 13, as a user might bring it."""
    folder = tmp_path_factory.mktemp("torchscript")

    def export(name, dynamic=True):
        path = folder / f"{name}.{dynamic}.onnx"
        if not path.exists():
            module, size = network(name)
            axes = {"images": {0: "n"}, "logits": {0: "n"}} if dynamic else None
            torch.onnx.export(module, (torch.zeros(2, 3, size, size),), path, dynamo=False, opset_version=13,
                              input_names=["images"], output_names=["logits"], dynamic_axes=axes)
        return path

    return export


@pytest.fixture(scope="session")
def float_onnx(torchscript_onnx, tmp_path_factory):
    """name -> path of the clean float file that every conversion starts from."""
    folder = tmp_path_factory.mktemp("float")

    def prepare(name):
        path = folder / f"{name}.onnx"
        if not path.exists():
            read_own_onnx(torchscript_onnx(name), path)
        return path

    return prepare


@pytest.fixture(scope="session")
def probe():
    """image size -> 16 fixed images."""
    return lambda size: np.random.default_rng(7).normal(size=(16, 3, size, size)).astype(np.float32)


@pytest.fixture(scope="session")
def ranges(float_onnx, probe):
    """name -> ranges calibrated (max) on the probe images."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = calibrate(float_onnx(name), [probe(NETWORKS[name][1])], MaxCalibrator(method="max"))
        return made[name]

    return of


@pytest.fixture
def parse(tmp_path):
    """ONNX text (without header) -> path of the file, initializers by keyword."""

    def write(text, name="net.onnx", opset=21, **initializers):
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
        for key, value in initializers.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), key))
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write


@pytest.fixture
def run_onnx():
    """(path, images) -> the first output, by ONNX Runtime without graph optimisations."""

    def run(path, images):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: images})[0]

    return run


@pytest.fixture
def optimized_ops(tmp_path):
    """path -> {operator: how often} of the graph that ONNX Runtime really runs."""

    def count(path):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = {}
        for node in onnx.load(tmp_path / "optimized.onnx").graph.node:
            found[node.op_type] = found.get(node.op_type, 0) + 1
        return found

    return count
