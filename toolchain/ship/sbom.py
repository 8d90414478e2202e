"""What the engine is made of and with, as a CycloneDX document: the same content gives the same bytes."""

from __future__ import annotations

import uuid

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from toolchain.engines.record import EngineRecord
from toolchain.report.schema import Report


def sbom(name: str, record: EngineRecord, report: Report) -> bytes:
    """The engine as a component that needs its runtime; packages that took part in the build are in scope `excluded`.

    name: of the recipe. The serial number follows from the digests, and there is no time in it.
    """
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{name}:{record.sha256}:{record.onnx_sha256}"))
    bom.metadata.timestamp = None  # type: ignore[assignment]  # when it was made is nobody's business but the signer's
    engine = Component(name=f"{name}.{record.name}", type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="engine",
                       hashes=[HashType(alg=HashAlgorithm.SHA_256, content=record.sha256)])
    runtime = Component(name=record.runtime, version=record.runtime_version, type=ComponentType.LIBRARY,
                        scope=ComponentScope.REQUIRED, bom_ref=f"runtime:{record.runtime}")
    bom.metadata.component = engine
    bom.components.add(runtime)
    for package, version in sorted(report.environment.packages.items()):
        if version:
            bom.components.add(Component(
                name=package, version=version, type=ComponentType.LIBRARY, scope=ComponentScope.EXCLUDED,
                purl=PackageURL("pypi", None, package, version), bom_ref=f"built-with:{package}"))
    bom.register_dependency(engine, [runtime])
    return (JsonV1Dot6(bom).output_as_string(indent=1) + "\n").encode("utf-8")
