"""One TensorRT build in a process of its own: `python -m toolchain.engines.trt_build`, the job as a JSON line on stdin.

A fresh process has a fresh Builder, and at fixed addresses its engine's bytes repeat; a crash or lack of memory ends
only it. Answers on stdout, one JSON object a line: {"progress": 0..1} while it works, then {"result": …} or
{"error": …}. Ends by itself when its stdin closes, that is, when its parent is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from toolchain.engines.open_shape import filled
from toolchain.engines.progress import Fraction
from toolchain.engines.repeatable import addresses_are_fixed
from toolchain.engines.trt_package import SHIFTED, UNSIGNED, Package, import_package, make_logger
from toolchain.errors import EngineError, ToolchainError
from toolchain.files import write_bytes

INSPECTED = "inspector.json"  # beside the engine, where it could be opened


@dataclass(frozen=True)
class Job:
    """What to build. sms: [] builds for the GPU that is here. batch: {min, opt, max}. timing_cache: file, or None.

    sparse: the weights hold 2:4 zeros, so kernels that skip them may be chosen where they are faster.
    image_size: pixels of a side, for a file that leaves height and width open (its channels are 3 then).
    """

    package: str
    onnx: str
    engine: str
    sms: list[int]
    batch: dict[str, int]
    workspace_mb: int | None
    timing_cache: str | None
    sparse: bool = False
    image_size: int | None = None


def build(job: Job, answers: TextIO) -> dict[str, Any]:
    """Build and write the engine; returns {runtime_version, layers, sparse, inspected, repeatable}.

    sparse: {"eligible", "chosen"}: layers for sparse tactics; None where this TensorRT does not tell. inspected: what
    the engine inspector says, as text; None where no engine can be opened. repeatable: at fixed addresses.
    Raises EngineError, MissingPackage.
    """
    package = import_package(job.package)
    trt, log = package.trt, make_logger(package.trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parse(job, trt, parser, network, log)
    fix_size(job, network)
    layers = walk(network)

    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32; TF32 keeps 10 bits of the fraction
    if job.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if job.sms:
        config.num_compute_capabilities = len(job.sms)
        for i, sm in enumerate(job.sms):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), i)
    if job.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mb << 20)
    set_profile(job, builder, network, config)
    cache = open_timing_cache(package, job.timing_cache, config)
    monitor = make_monitor(trt, answers)  # kept in a variable: the builder holds no reference of its own
    config.progress_monitor = monitor
    inspectable = not package.has_cc_api  # an engine for other GPUs cannot be opened here, and details change its bytes
    if inspectable:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED

    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        told = " | ".join(log.errors) or "no reason given"
        raise EngineError(f"{job.onnx}: {job.package} {trt.__version__} could not build it{_for(job)}: {told[:600]}")
    write_bytes(Path(job.engine), bytes(serialized))
    if cache is not None and job.timing_cache:
        mine = Path(f"{job.timing_cache}.{os.getpid()}")  # two builds may end at once; the later one's is kept
        write_bytes(mine, bytes(config.get_timing_cache().serialize()))
        os.replace(mine, job.timing_cache)
    return {"runtime_version": str(trt.__version__), "layers": layers,
            "sparse": {"eligible": log.sparse.get("Found"), "chosen": log.sparse.get("Chose")},
            "inspected": inspect(trt, log, serialized) if inspectable else None, "repeatable": addresses_are_fixed()}


def inspect(trt: Any, log: Any, serialized: Any) -> str | None:
    """The engine inspector's JSON on every layer; None where the engine cannot be opened here."""
    runtime = trt.Runtime(log)  # kept in a variable: the engine needs it
    engine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        return None
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def parse(job: Job, trt: Any, parser: Any, network: Any, log: Any) -> None:
    """Read the ONNX file into `network`. Raises EngineError naming the operator that is not supported."""
    path = Path(job.onnx)
    where = f"{path}: {job.package} {trt.__version__}"
    try:
        parsed = parser.parse(path.read_bytes())  # bytes, not the path: its length would shift addresses
    except FileNotFoundError:
        raise EngineError(f"{path}: no such ONNX file; export it first") from None
    told = "\n".join([*log.warnings, *log.errors])
    if UNSIGNED in told or unsigned_nodes(path):
        raise EngineError(f"{where} has no unsigned INT8: found uint8 QuantizeLinear/DequantizeLinear, expected int8 "
                          "with zero_point 0; convert the float ONNX with the tensorrt rules")
    if SHIFTED in told:
        raise EngineError(f"{where} has symmetric INT8 only: found a zero_point that is not 0, expected int8 with "
                          "zero_point 0; convert the float ONNX with the tensorrt rules")
    if not parsed:
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise EngineError(f"{where} cannot read it: {'; '.join(dict.fromkeys(map(_say, errors)))[:600]}")
    if network.num_inputs == 0 or network.num_outputs == 0:  # what it makes of an empty file
        raise EngineError(f"{where} found no network in it ({path.stat().st_size} bytes); export it again")
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise EngineError(f"{where}: found {network.num_inputs} inputs and {network.num_outputs} outputs, expected one "
                          "input (images) and one output (logits)")


def unsigned_nodes(path: Path) -> list[str]:
    """Names of the nodes that make or read unsigned codes, of which not every TensorRT says something; [] where the
    onnx package is absent (a device) or the file cannot be read (the parser says why).

    A QuantizeLinear without zero_point makes uint8, says ONNX, unless its output_dtype says otherwise.
    """
    try:
        import onnx

        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # protobuf's DecodeError lies in different places in different versions
        return []
    unsigned = (onnx.TensorProto.UINT8, onnx.TensorProto.UINT4, onnx.TensorProto.UINT16)
    kinds, found = {tensor.name: tensor.data_type for tensor in graph.initializer}, []
    for node in graph.node:
        given = {attribute.name: attribute for attribute in node.attribute}
        kind = kinds.get(node.input[0]) if node.input else None
        if node.op_type == "Constant":
            kind = given["value"].t.data_type if "value" in given else None
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            if len(node.input) > 2 and node.input[2]:
                kind = kinds.get(node.input[2])
            elif node.op_type == "QuantizeLinear":
                kind = given["output_dtype"].i if "output_dtype" in given else onnx.TensorProto.UINT8
            if kind in unsigned:
                found.append(node.name)
        for name in node.output:
            kinds[name] = None if node.op_type in ("DequantizeLinear", "Cast") else kind  # pools pass codes on
    return found


def _say(error: Any) -> str:
    operator, node = error.node_operator(), error.node_name()
    code = error.code().name
    if code == "UNSUPPORTED_NODE":
        return f"unsupported operator {operator} (node '{node}')"
    place = f" at {operator} (node '{node}')" if operator else ""
    return f"{error.desc() or code}{place}"


def _for(job: Job) -> str:
    return f" for {'+'.join(f'sm{sm}' for sm in job.sms)}" if job.sms else ""


def walk(network: Any) -> list[dict[str, Any]]:
    """[{name, op, dtype, shape}] of the parsed network, as TensorRT typed it; works without a GPU."""
    layers = []
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        output = layer.get_output(0)
        layers.append({"name": layer.name, "op": layer.type.name, "dtype": output.dtype.name if output else None,
                       "shape": list(output.shape) if output and len(output.shape) >= 0 else None})
    return layers


def fix_size(job: Job, network: Any) -> None:
    """Write job.image_size where the input leaves its size open. Raises EngineError where it is not known."""
    given = network.get_input(0)
    shape = filled(given.shape, job.image_size)
    if -1 in shape[1:]:
        raise EngineError(f"{job.onnx}: its input is {shape}, expected fixed channels, height and width")
    if shape != tuple(given.shape):
        given.shape = shape


def set_profile(job: Job, builder: Any, network: Any, config: Any) -> None:
    """Allow batch sizes min to max where the batch is dynamic."""
    given = network.get_input(0)
    shape = tuple(given.shape)
    if shape[0] != -1:
        return
    profile = builder.create_optimization_profile()
    profile.set_shape(given.name, *((job.batch[end], *shape[1:]) for end in ("min", "opt", "max")))
    config.add_optimization_profile(profile)


def open_timing_cache(package: Package, path: str | None, config: Any) -> Any:
    """Give the builder the kernel timings of earlier builds; None where the package has no timing cache."""
    if not (package.has_timing_cache and path):
        return None
    known = Path(path).read_bytes() if Path(path).is_file() else b""
    cache = config.create_timing_cache(known)
    config.set_timing_cache(cache, False)
    return cache


def make_monitor(trt: Any, answers: TextIO) -> Any:
    """A progress monitor that writes {"progress": share done}, at most a hundred times."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.fraction, self.told = Fraction(), 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.fraction.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.fraction.step(phase_name, step)
            if self.fraction.done >= self.told + 0.01:
                self.told = self.fraction.done
                tell(answers, progress=round(self.told, 2))
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            self.fraction.finish(phase_name)

    return Monitor()


def tell(answers: TextIO, **answer: Any) -> None:
    """One JSON line to the parent."""
    print(json.dumps(answer), file=answers, flush=True)


def end_with_parent() -> None:
    """Leave at once when stdin closes: a killed parent must not leave a build running for minutes."""
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    waiting.wait()  # what it allocates, it allocates now, so that later addresses do not depend on its timing


def main() -> None:
    """Build the job that stdin holds; what native libraries print on stdout goes to stderr."""
    job = Job(**json.loads(sys.stdin.readline()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends us
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    end_with_parent()
    try:
        tell(answers, result=build(job, answers))
    except ToolchainError as error:
        tell(answers, error=str(error), kind=type(error).__name__)
    except OSError as error:
        tell(answers, error=str(error), kind="OSError", errno=error.errno)


if __name__ == "__main__":
    main()
