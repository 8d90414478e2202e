from types import SimpleNamespace

from toolchain.measure.reference import fp32_reference


def engine(name):
    precision, runtime, target = name.split(".")
    return SimpleNamespace(name=name, precision=precision, runtime=runtime, target=target)


ORT, OV = engine("fp32.onnxruntime.cpu_x86"), engine("fp32.openvino.cpu_x86")
CUDA, RTX = engine("fp32.onnxruntime.cuda"), engine("fp32.tensorrt_rtx.sm89")


def test_the_reference_is_the_fp32_engine_of_the_same_runtime():
    measured = [ORT, OV, CUDA, RTX]
    assert fp32_reference(engine("int8.openvino.cpu_x86"), measured, same_device=True) == OV.name
    assert fp32_reference(engine("fp16.onnxruntime.cuda"), measured, same_device=True) == CUDA.name
    assert fp32_reference(engine("int8.tensorrt_rtx.sm86+sm89"), measured, same_device=True) == RTX.name
    assert fp32_reference(ORT, measured, same_device=True) == ORT.name


def test_without_one_it_is_the_first_fp32_engine_measured():
    assert fp32_reference(engine("int8.openvino.cpu_x86"), [ORT], same_device=True) == ORT.name


def test_times_of_a_gpu_and_a_cpu_are_never_compared_but_answers_are():
    gpu = engine("int8.tensorrt.local_gpu")
    assert fp32_reference(gpu, [ORT, OV], same_device=True) is None
    assert fp32_reference(gpu, [ORT, OV], same_device=False) == ORT.name


def test_without_any_fp32_engine_there_is_no_reference():
    int8 = engine("int8.onnxruntime.cpu_x86")
    assert fp32_reference(int8, [int8], same_device=False) is None
