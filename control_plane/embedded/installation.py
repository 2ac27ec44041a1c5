"""Finding a `tritonserver`, and giving it what it needs to run here.

In NVIDIA's container it is installed with all its backends. Elsewhere the ``nvidia-pytriton``
wheel carries the binary and the Python backend; of that wheel nothing else is used, and
`backends.onnxruntime_shim` takes the place of the onnxruntime backend.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

CONTAINER_BINARY = Path("/opt/tritonserver/bin/tritonserver")
EMBEDDED_CONFIG = "embedded"
STAND_IN = Path(__file__).resolve().parents[2] / "backends" / "onnxruntime_shim" / "model.py"

_HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Where the kernel gives huge pages to who asks (madvise): a decode step, which reads all weights
once, is then 8% shorter (100 million parameters in float32, on a CPU)."""


class TritonMissing(RuntimeError):
    """The error of a machine on which no server can be started; the message says in a sentence
    what is missing."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The way to call the server. ``arguments`` and ``environment`` are what this machine needs.

    ``config_name``: a model may have a ``configs/<config_name>.pbtxt`` for this kind of server.
    """

    binary: Path
    arguments: tuple[str, ...]
    environment: dict[str, str]
    config_name: str | None = None

    def config_file(self, model: Path) -> Path:
        """Return where this server takes the configuration of a model's folder from."""
        if self.config_name:
            file = model / "configs" / f"{self.config_name}.pbtxt"
            if file.is_file():
                return file
        return model / "config.pbtxt"


def find(runtime: Path) -> Installation:
    """Return the installation of this machine. ``runtime``: a folder that may be written to.
    Raises `TritonMissing`."""
    if on_path := shutil.which("tritonserver"):
        return Installation(Path(on_path), (), {})
    if CONTAINER_BINARY.is_file():
        return Installation(CONTAINER_BINARY, (), {})
    return _from_wheel(runtime)


def _from_wheel(runtime: Path) -> Installation:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise TritonMissing(
            f"The embedded Triton runs on Linux on x86-64, not on {sys.platform} on "
            f"{platform.machine()}: run tritonserver elsewhere and set serving.triton.endpoints."
        )
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonMissing(
            "There is no tritonserver on this machine: install the `embedded` extra "
            "(nvidia-pytriton), or set serving.triton.endpoints to a running server."
        )
    package = Path(spec.origin).parent
    server = package / "tritonserver"
    backends = runtime / "backends"
    _assemble_python_backend(server, backends / "python")
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / STAND_IN.name).symlink_to(STAND_IN)
    libraries = [_python_library_folder(), str(package.parent / "nvidia_pytriton.libs")]
    tunables = os.environ.get("GLIBC_TUNABLES")
    return Installation(
        server / "bin" / "tritonserver",
        (f"--backend-directory={backends}", f"--model-config-name={EMBEDDED_CONFIG}"),
        {
            # The stub takes the environment of the `python3` it finds first.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "GLIBC_TUNABLES": ":".join(filter(None, (tunables, _HUGE_PAGES))),
        },
        EMBEDDED_CONFIG,
    )


def _assemble_python_backend(server: Path, target: Path) -> None:
    """Link the Python backend's files into ``target``: the wheel keeps a stub for each Python
    version beside the backend, which wants one in it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise TritonMissing(f"The embedded Triton supports Python 3.11 to 3.13, not {version}.")
    target.mkdir(parents=True)
    for file in [*(server / "backends" / "python").iterdir(), stub]:
        if file.suffix == ".so":
            # As the library of another backend, the shim's, Triton takes no link out of here.
            shutil.copyfile(file, target / file.name)
        else:
            (target / file.name).symlink_to(file)


def _python_library_folder() -> str:
    """Return the folder of this Python's shared library, or "" where the linker finds it by itself.

    It has to come first: another library of the same minor version would be loaded otherwise, and
    extension modules such as ``_ssl`` then fail.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    if (folder / name).is_file():
        return str(folder)
    try:
        ctypes.CDLL(name)
    except OSError:
        package = name.removesuffix(".so.1.0")
        raise TritonMissing(
            f"Triton's Python backend needs {name}, which this Python does not have: "
            f"install it (Debian, Ubuntu: apt-get install {package})."
        ) from None
    return ""
