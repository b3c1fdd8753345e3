"""Whether workers can run in this installation at all, as far as it can be told without importing what they import."""

from __future__ import annotations

import sys
import tempfile
import traceback
from importlib.util import find_spec

from ringlight.core.errors import InvalidInstallation

WORKER = ("torch", "tokenizers", "safetensors", "ftfy")  # the extra `worker`: what ranks alone import
WORKSHOP = (*WORKER, "av", "PIL", "numpy")  # what workers import
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}  # those that are called otherwise
OURS = {"ringlight", "__main__"}
DOCTOR = "`ringlight doctor` says more"
ADD_WORKER = "pip install 'ringlight[worker]'"
ABOUT_TORCH = "a torch that is there is kept, and the one that pip brings to Linux on x86-64 has CUDA"


def check_installation() -> None:
    """Raise InvalidInstallation where a package that workers import is missing, or there is no temporary folder."""
    if missing := [package for package in WORKSHOP if find_spec(package) is None]:
        raise InvalidInstallation(not_installed(missing))
    check_temporary_folder()


def check_temporary_folder() -> None:
    """Raise InvalidInstallation unless there is a folder that temporary files can be written to."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise InvalidInstallation(
            f"there is no folder for temporary files ({error.strerror}); where the root is read-only, mount a "
            "writable folder and name it in TMPDIR, such as TMPDIR=/data/tmp"
        ) from None


def not_importable(error: Exception) -> InvalidInstallation:
    """Error for a failed import: which package, why, and how to mend it."""
    package = _package_of(error)
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return InvalidInstallation(not_installed([package]))
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return InvalidInstallation(
        f"{package} cannot be imported ({reason}); install it anew into the environment of {sys.executable}: "
        f"`pip install --force-reinstall {DISTRIBUTIONS.get(package, package)}`; {DOCTOR}"
    )


def not_installed(packages: list[str]) -> str:
    """The sentence on packages that are missing: those of the worker come together, and with all that it needs."""
    verb = "is" if len(packages) == 1 else "are"
    missing = f"{', '.join(packages)} {verb} not installed in the environment of {sys.executable}"
    if set(WORKER).intersection(packages):
        return f"{missing}; `{ADD_WORKER}` there adds what computes ({ABOUT_TORCH}); {DOCTOR}"
    wanted = " ".join(DISTRIBUTIONS.get(package, package) for package in packages)
    return f"{missing}; `pip install {wanted}` there; {DOCTOR}"


def _package_of(error: Exception) -> str:
    """The top package that an import failed in: the one that the error names, else the last whose code was run."""
    if isinstance(error, ImportError) and error.name:
        return error.name.partition(".")[0]
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [module.partition(".")[0] for module in modules]
    return next((name for name in reversed(packages) if name not in OURS | sys.stdlib_module_names), "a package")
