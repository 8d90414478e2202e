"""Olive's OnnxStaticQuantization pass. `python by_olive.py FLOAT.onnx CALIB.npy OUT.onnx SETTING`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calib_file import CalibrationFile

U8S8: dict[str, Any] = {"activation_type": "uint8", "precision": "int8", "per_channel": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "u8s8 per channel": U8S8,
    "u8s8 per channel, limited operators": {**U8S8, "prepare_qdq_config": False},
}


class Images:
    """What Olive iterates over: ({input: (1, 3, S, S)}, no label) for every image."""

    def __init__(self, calib: Path, input_name: str) -> None:
        self.images, self.input_name = CalibrationFile(calib), input_name

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], None]]:
        return (({self.input_name: image}, None) for image in self.images.batches())


def main(float_onnx: Path, calib: Path, out: Path, setting: str) -> None:
    """Run the one pass on the file, without the workflow's cache around it."""
    import onnx
    from olive.data.registry import Registry
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx.quantization import OnnxStaticQuantization

    entry = onnx.load(float_onnx).graph.input[0].name

    @Registry.register_dataloader("calibration_file")
    def calibration_file(dataset: Any, **_: Any) -> Images:
        return Images(calib, entry)

    @Registry.register_dataset("nothing")
    def nothing(**_: Any) -> None:
        return None

    data = {"name": "calibration", "type": "DummyDataContainer", "load_dataset_config": {"type": "nothing"},
            "pre_process_data_config": {"type": "skip_pre_process"},
            "post_process_data_config": {"type": "skip_post_process"},
            "dataloader_config": {"type": "calibration_file"}}
    with tempfile.TemporaryDirectory() as folder:
        step = create_pass_from_dict(OnnxStaticQuantization, {"data_config": data, **SETTINGS[setting]},
                                     disable_search=True)
        made = step.run(ONNXModelHandler(str(float_onnx)), str(Path(folder) / "made"))
        shutil.copyfile(made.model_path, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), setting=sys.argv[4])
