"""What a machine has, and whether a model fits it."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from scfm_lab.models.spec import ModelSpec

GIB = 2**30
_PYTORCH_GIB = 0.45
_BATCH_TOKENS = 8_192
_MARGIN = 1.25
_TIGHT = 0.8


@dataclass(frozen=True)
class Hardware:
    """A machine, as a plain value: plans for machines that are not here can be computed."""

    name: str
    cores: int
    ram_gib: float
    free_gib: float
    device: str = "cpu"
    """Best device: ``"cuda"``, ``"mps"`` or ``"cpu"``."""
    device_name: str = ""
    device_gib: float = 0.0
    """Memory of the device; on a Mac it is the machine's own."""
    device_free_gib: float = 0.0
    """What of it is free; on a Mac 0 means as much as the machine has (`free_gib`)."""
    bf16: bool = False
    tflops: float = 0.0
    """Matrix products it sustains, in 10¹² operations a second; 0: not known."""

    @classmethod
    def detect(cls) -> Hardware:
        """This machine, with the memory that is free now."""
        import psutil

        memory = psutil.virtual_memory()
        total, free = memory.total / GIB, memory.available / GIB
        limit, used = _cgroup()
        if limit is not None and limit < total:
            total, free = limit, min(free, max(limit - used, 0.0))
        here = cls(
            name=f"{platform.system()} {platform.machine()}",
            cores=len(psutil.Process().cpu_affinity())
            if hasattr(psutil.Process, "cpu_affinity")
            else psutil.cpu_count() or 1,
            ram_gib=total,
            free_gib=free,
            device_gib=total,
            device_free_gib=free,
            device_name=platform.processor() or platform.machine(),
        )
        return _with_accelerator(here)

    @property
    def room_gib(self) -> float:
        """Free memory of the best device in GiB; on a Mac no more than is free of the machine's own."""
        if self.device == "cpu":
            return self.free_gib
        if self.device == "mps":
            return min(self.device_free_gib or self.free_gib, self.free_gib)
        return self.device_free_gib

    def describe(self) -> str:
        """One line for people."""
        text = f"{self.name}, {self.cores} cores, {self.ram_gib:.0f} GiB ({self.free_gib:.0f} free)"
        if self.device == "cpu":
            return text + ", no GPU"
        return text + f", {self.device.upper()} {self.device_name} ({self.room_gib:.0f} GiB free)"


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can be asked to.

    Arrays of ever other sizes leave gaps in glibc's heap, which over hours of batches grow to gigabytes.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    import ctypes

    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def mapped_files(maps: Path = Path("/proc/self/maps")) -> list[tuple[int, int]]:
    """First and last address of the files that lie in this process's memory without taking of what is free; Linux tells."""
    try:
        lines = [line.split(maxsplit=5) for line in maps.read_text().splitlines()]
    except OSError:
        return []
    # Address, rights, offset, device, inode, file.
    found = [parts[0].partition("-") for parts in lines if len(parts) > 5 and parts[4] != "0"]
    return [(int(first, 16), int(last, 16)) for first, _, last in found]


def _with_accelerator(here: Hardware) -> Hardware:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return replace(
            here,
            device="cuda",
            device_name=torch.cuda.get_device_name(),
            device_gib=total / GIB,
            device_free_gib=free / GIB,
            bf16=torch.cuda.is_bf16_supported(),
        )
    if torch.backends.mps.is_available():
        recommended = torch.mps.recommended_max_memory() / GIB
        return replace(
            here,
            device="mps",
            device_name="Apple GPU",
            device_gib=recommended,
            device_free_gib=min(recommended, here.free_gib),
        )
    return replace(here, bf16=bool(torch.backends.cpu.get_cpu_capability() == "AVX512"))


def _cgroup(folder: Path = Path("/sys/fs/cgroup")) -> tuple[float | None, float]:
    """What memory a container may take, None where it has no limit, and what of it is taken, in GiB."""

    def number(text: str) -> int | None:
        return int(text) if text.strip().isdigit() else None

    try:
        limit = number((folder / "memory.max").read_text())
    except OSError:
        return None, 0.0
    taken = 0
    with suppress(OSError, ValueError, KeyError):
        taken = number((folder / "memory.current").read_text()) or 0
        lines = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
        # Copies of files that nobody has looked at for long are given up as soon as the memory is needed.
        taken -= number(lines["inactive_file"]) or 0
    return (None if limit is None else limit / GIB), max(taken, 0) / GIB


def choose_device(device: str) -> str:
    """A torch device's name for ``"auto"``, ``"cpu"``, ``"mps"``, ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    ModelError
        If it is not a device or not there.
    """
    import torch

    kind = device.split(":", 1)[0]
    if kind == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cpu":
        return "cpu"
    if kind == "cuda" and torch.cuda.is_available():
        return device
    if kind == "mps" and torch.backends.mps.is_available():
        return "mps"
    if kind in ("cuda", "mps"):
        raise ModelError(f"device={device!r} is not available on this machine; use device='auto' or 'cpu'.")
    raise ModelError(f"device={device!r} is not known; use 'auto', 'cpu', 'mps' or 'cuda'.")


@dataclass(frozen=True)
class Needs:
    """What decides a model's memory."""

    parameters: int
    width: int
    layers: int = 0
    heads: int = 0
    feed_forward: int = 0
    length: int = 2048
    weight_bytes: int | None = None
    measured_gib: float | None = None
    """Peak above the machine's idle state, where it was measured on this kind of device."""
    estimated_gib: float | None = None
    """Peak as a plan for certain cells has it."""

    @classmethod
    def of(cls, spec: ModelSpec) -> Needs:
        """Needs of a model as its spec declares them."""
        return cls(spec.parameters, spec.width, spec.layers, spec.heads, spec.feed_forward, spec.max_length or 2048)

    def estimate_gib(self, tokens: int | None = None) -> float:
        """Peak memory in GiB for a batch of `tokens` tokens (default: the engine's on a CPU, or one full cell).

        Weights in float32, activations of one layer, the attention scores of one cell (none
        is kept with fused attention), PyTorch itself, and a quarter on top.
        """
        if self.estimated_gib is not None:
            return self.estimated_gib
        tokens = tokens or max(self.length, _BATCH_TOKENS)
        weights = self.weight_bytes if self.weight_bytes is not None else 4 * self.parameters
        feed_forward = self.feed_forward or 4 * self.width
        activations = 4 * tokens * (10 * self.width + 2 * feed_forward) if self.layers else 0
        return _MARGIN * ((weights + activations) / GIB + _PYTORCH_GIB)


def packed_bytes(tokens: int, width: int, feed_forward: int) -> int:
    """Bytes of a forward pass over packed tokens on a CUDA device, in float32.

    Either attention holds the most (states, queries, keys, values and what is made of them), or the feed-forward layer does.
    On an H100 five models of published size took 0.8 to 1.02 of it.
    """
    return 4 * tokens * max(7 * width, 3 * width + 2 * feed_forward)


@dataclass(frozen=True)
class Fit:
    """Whether a model fits a machine, and why."""

    verdict: str
    """``"fits"``, ``"tight"`` or ``"does not fit"``."""
    reason: str
    source: str
    """``"measured"`` or ``"estimated"``."""
    need_gib: float
    free_gib: float

    def __bool__(self) -> bool:
        return self.verdict != "does not fit"


def fits(model: Any, hardware: Hardware | None = None) -> Fit:
    """Whether a model fits the free memory of a machine.

    Parameters
    ----------
    model
        A :class:`~scfm_lab.models.contract.Model`, its spec, or :class:`Needs`.
    hardware
        Default: this machine.
    """
    hardware = hardware or Hardware.detect()
    spec = getattr(model, "spec", model)
    needs = spec if isinstance(spec, Needs) else Needs.of(spec)
    measured = needs.measured_gib is not None
    need = needs.measured_gib if needs.measured_gib is not None else needs.estimate_gib()
    free = hardware.room_gib
    source = "measured" if measured else "estimated"
    place = hardware.device.upper()
    if need > free:
        verdict, why = "does not fit", f"needs {need:.1f} GiB, {free:.1f} GiB are free on the {place}"
    elif need > _TIGHT * free:
        verdict, why = "tight", f"needs {need:.1f} of the {free:.1f} GiB free on the {place}"
    else:
        verdict, why = "fits", f"needs {need:.1f} of the {free:.1f} GiB free on the {place}"
    return Fit(verdict, f"{why} ({source})", source, need, free)
