"""The activation cache: flat memory-mapped rows per hook point, a manifest, and the stored shuffle."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt
from torch import Tensor

from ..config.activations import ActivationsConfig
from ..config.base import Json, parse
from ..lm.corpus import load_rows, read_manifest
from ..lm.prepare import load_model, read_record
from ..lm.sites import Site
from ..store.errors import UserError
from ..store.files import content_hash, human_bytes, read_json, require_space, sha256_file, write_array, write_json
from .order import sequence_order, take, token_order

_STORED = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": np.dtype("<i2")}  # bfloat16: its bits
_TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class _Shard(BaseModel):
    file: str
    sha256: str


class _HookPoint(BaseModel):
    layer: int
    d_in: PositiveInt
    shards: Annotated[list[_Shard], Field(min_length=1)]


class _Identity(BaseModel):
    context: PositiveInt
    n_rows: PositiveInt


class _Orders(BaseModel):
    sequence_order: str
    token_order: str


class CacheManifest(BaseModel):
    """What must be in the manifest of a cache."""

    identity: _Identity
    dtype: Literal["float32", "float16", "bfloat16"]
    rows_per_shard: PositiveInt
    orders: _Orders
    hook_points: dict[str, _HookPoint]


class _Written(BaseModel):
    sha256: str
    sum: list[FiniteFloat]
    sum_of_squares: Annotated[FiniteFloat, Field(ge=0)]
    tokens: PositiveInt


class _Progress(BaseModel):
    identity: dict[str, Any]
    shards: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*/[0-9]+$")], _Written]  # of <hook point>/<number>


def _mend(folder: Path) -> str:
    return f"delete {folder / 'manifest.json'} and run the same snakemake command again: it makes what is missing or damaged"


def identity(config: ActivationsConfig, model_folder: Path, corpus_folder: Path) -> dict:
    """What a cache's rows depend on: model and its processing, corpus bytes, settings."""
    model, corpus = read_record(model_folder), read_manifest(corpus_folder)
    return {
        "model": model["model"],
        "model_sha256": model.get("sha256") or content_hash([model["sources"], model["model"]]),
        "corpus_sha256": corpus["sha256"]["train"],
        "context": corpus["context"],
        "n_rows": corpus["train_rows"],
        "settings": config.model_dump(exclude={"source"}),
    }


def write_cache(
    config: ActivationsConfig,
    hook_points: list[str],
    model_folder: Path,
    corpus_folder: Path,
    out: Path,
    device: str = "cpu",
    fingerprint: str | None = None,
) -> None:
    """Cache the training rows of all `hook_points` in one forward pass per batch.

    The size is printed before anything is written. Undamaged shards of an interrupted or smaller earlier write with the same
    identity and `fingerprint` (of the code) are kept.

    Raises:
        UserError: a hook point does not exist, or the disk cannot hold the cache.
    """
    model = load_model(model_folder, device)
    sites = [Site.parse(hook, model.arch) for hook in dict.fromkeys(hook_points)]
    tokens = load_rows(corpus_folder, "train")
    n_rows, context = tokens.shape
    stored = _STORED[config.dtype]
    rows_per_shard = max(1, config.shard_tokens // context)
    n_shards = -(-n_rows // rows_per_shard)
    width = sum(site.d_in for site in sites)
    size = n_rows * context * width * stored.itemsize
    print(
        f"activation cache: {len(sites)} hook point(s), {n_rows * context:,} tokens x {width} values = {human_bytes(size)}",
        flush=True,
    )

    who = identity(config, model_folder, corpus_folder)
    progress = _resume(out, who | {"fingerprint": fingerprint})
    sizes = [min(rows_per_shard, n_rows - shard * rows_per_shard) * context for shard in range(n_shards)]
    todo = [[site for site in sites if not _done(progress, site, shard, size)] for shard, size in enumerate(sizes)]
    left = sum(site.d_in for missing in todo for site in missing)
    require_space(
        out,
        left * min(n_rows, rows_per_shard) * context * stored.itemsize + n_rows * (context + 1) * 8,
        "the activation cache",
    )
    (out / "manifest.json").unlink(missing_ok=True)
    for shard, missing in enumerate(todo):
        if not missing:
            continue
        rows = tokens[shard * rows_per_shard : (shard + 1) * rows_per_shard]
        values = _shard_values(model, rows, missing, config)
        for hook in values:
            path = _shard_path(out, hook, shard)
            sums = _moments(values[hook])
            write_array(path, _to_numpy(values[hook], config.dtype))
            progress["shards"][f"{hook}/{shard}"] = {"sha256": sha256_file(path), **sums}
        write_json(out / "progress.json", progress)
        print(f"shard {shard + 1} of {n_shards} written", flush=True)
    _finish(out, config, who, progress, sites, n_shards, rows_per_shard)


def _resume(out: Path, who: dict) -> dict:
    """What an earlier write of the same cache has left whole."""
    path = out / "progress.json"
    if path.exists():
        with contextlib.suppress(UserError):  # unreadable: begun anew
            progress = read_json(path, _Progress)
            if progress["identity"] == json.loads(json.dumps(who)):
                whole = {key: shard for key, shard in progress["shards"].items() if _is_whole(out, key, shard["sha256"])}
                return progress | {"shards": whole}
        shutil.rmtree(out)  # shards of another model, corpus or setting
    return {"identity": who, "shards": {}}


def _is_whole(out: Path, key: str, digest: str) -> bool:
    path = _shard_path(out, *key.rsplit("/", 1))
    return path.is_file() and sha256_file(path) == digest


def _done(progress: dict, site: Site, shard: int, tokens: int) -> bool:
    written = progress["shards"].get(f"{site.name}/{shard}")
    return written is not None and (len(written["sum"]), written["tokens"]) == (site.d_in, tokens)


def _shard_path(out: Path, hook: str, shard: int | str) -> Path:
    return out / hook / f"{int(shard):05d}.npy"


@torch.no_grad()
def _shard_values(model, rows: np.ndarray, sites: list[Site], config: ActivationsConfig) -> dict[str, Tensor]:
    """Per hook point the activations (tokens, d_in) of `rows`, in the stored type."""
    n_tokens = rows.shape[0] * rows.shape[1]
    values = {site.name: torch.empty(n_tokens, site.d_in, dtype=_TORCH[config.dtype]) for site in sites}
    done = 0
    for start in range(0, len(rows), config.batch_rows):
        batch = torch.from_numpy(rows[start : start + config.batch_rows].astype(np.int64)).to(model.device)
        for hook, captured in model.hook_values(batch, values).items():
            part = values[hook][done : done + batch.numel()]
            part.copy_(captured.flatten(0, 1))
            check_finite(part, captured, hook, config)
        done += batch.numel()
    return values


def check_finite(kept: Tensor, values: Tensor, hook_point: str, config: ActivationsConfig) -> None:
    """Refuse activations that are no numbers to train on.

    Args:
        kept: `values` in the stored type.

    Raises:
        UserError: naming the hook point, and whether the type or the model is the reason.
    """
    if kept.isfinite().all():
        return
    if values.isfinite().all():
        wide = "bfloat16 or float32" if config.dtype == "float16" else "float32"
        raise UserError(f"activations at {hook_point} exceed the range of {config.dtype}; set `activations.dtype` to {wide}.")
    raise UserError(
        f"activations at {hook_point} are not finite: the model overflows there, or its weights are damaged; choose an earlier hook point or "
        "another model, or fetch the model's files again."
    )


def _moments(values: Tensor) -> dict:
    """Sums over the shard's tokens that give mean and mean square norm; float64, in slices to bound the memory."""
    total = torch.zeros(values.shape[1], dtype=torch.float64)
    square = 0.0
    for part in values.split(1 << 16):
        part = part.double()
        total += part.sum(dim=0)
        square += part.square().sum().item()
    return {"sum": total.tolist(), "sum_of_squares": square, "tokens": len(values)}


def _to_numpy(values: Tensor, dtype: str) -> np.ndarray:
    return (values.view(torch.int16) if dtype == "bfloat16" else values).numpy()


def _finish(out, config, who, progress, sites, n_shards, rows_per_shard) -> None:
    order = sequence_order(who["n_rows"], config.seed)
    for name, values in (
        ("sequence_order", order),
        ("token_order", token_order(order, who["context"], config.block_rows, config.seed)),
    ):
        write_array(out / f"{name}.npy", values.numpy())
    hooks = {}
    for site in sites:
        hook = site.name
        shards = [progress["shards"][f"{hook}/{i}"] for i in range(n_shards)]
        n_tokens = sum(s["tokens"] for s in shards)
        hooks[hook] = {
            "layer": site.layer,
            "d_in": site.d_in,
            "mean": (np.sum([s["sum"] for s in shards], axis=0) / n_tokens).tolist(),
            "rms_norm": float(np.sqrt(sum(s["sum_of_squares"] for s in shards) / n_tokens)),
            "shards": [{"file": f"{hook}/{i:05d}.npy", "sha256": s["sha256"]} for i, s in enumerate(shards)],
        }
    manifest = {
        "identity": who,
        "dtype": config.dtype,
        "rows_per_shard": rows_per_shard,
        "orders": {name: sha256_file(out / f"{name}.npy") for name in ("sequence_order", "token_order")},
        "hook_points": hooks,
    }
    write_json(out / "manifest.json", manifest)


class ActivationCache:
    """Reader of one hook point's cached rows, and of the same sequences at the other cached hook points.

    Raises:
        UserError: the cache is missing, incomplete, damaged, or not the one that the run was configured for.
    """

    def __init__(self, folder: Path, hook_point: str, expected: dict | None = None, device: str = "cpu") -> None:
        manifest = read_json(folder / "manifest.json", CacheManifest, _mend(folder))
        if hook_point not in manifest["hook_points"]:
            raise UserError(
                f"the activation cache {folder} does not hold {hook_point}; it holds {', '.join(manifest['hook_points'])}: {_mend(folder)}."
            )
        if expected is not None and json.loads(json.dumps(expected)) != manifest["identity"]:
            stale = sorted(k for k in expected if expected[k] != manifest["identity"].get(k))
            raise UserError(
                f"the manifest of activation cache {folder} is stale: its {', '.join(stale)} differ from the model and corpus on disk; "
                f"{_mend(folder)}."
            )
        stored = manifest["hook_points"][hook_point]
        self.manifest = manifest["identity"]
        self.hook_point = hook_point
        self.context, self.n_rows, self.d_in = self.manifest["context"], self.manifest["n_rows"], stored["d_in"]
        self.device = device
        self._dtype = manifest["dtype"]
        self._tokens_per_shard = manifest["rows_per_shard"] * self.context
        shards = {f"{hook_point}/{i:05d}.npy": shard["sha256"] for i, shard in enumerate(stored["shards"])}
        _verify(folder, shards | {f"{name}.npy": digest for name, digest in manifest["orders"].items()})
        sizes = [self._tokens_per_shard] * (len(shards) - 1) + [
            self.n_rows * self.context - self._tokens_per_shard * (len(shards) - 1)
        ]
        self._shards = [_open(folder, name, self._dtype, (size, self.d_in)) for name, size in zip(shards, sizes, strict=True)]
        self.sequence_order = torch.from_numpy(np.load(folder / "sequence_order.npy"))
        self.token_order = torch.from_numpy(np.load(folder / "token_order.npy", mmap_mode="c"))
        self._folder = folder
        self._others: dict[str, ActivationCache] = {}

    def tokens(self, start: int, count: int) -> Float[Tensor, "count d_in"]:
        """`count` single activations at places `start` … of the stored token order, which is circular; float32."""
        return self._gather(take(self.token_order, start, count))

    def sequences(self, start: int, count: int) -> Float[Tensor, "count context d_in"]:
        """`count` whole rows at places `start` … of the stored sequence order, which is circular; float32."""
        rows = take(self.sequence_order, start, count)
        index = (rows[:, None] * self.context + torch.arange(self.context)).flatten()
        return self._gather(index).view(count, self.context, self.d_in)

    def sequences_at(self, start: int, count: int, names: Iterable[str]) -> dict[str, Float[Tensor, "count context d_in"]]:
        """`sequences` at each of the hook points `names`: the same rows of the corpus; each hook point has its own d_in.

        Raises:
            UserError: a hook point is not cached, or its files are damaged.
        """
        return {name: self._at(name).sequences(start, count) for name in names}

    def _at(self, name: str) -> ActivationCache:
        if name == self.hook_point:
            return self
        if name not in self._others:
            self._others[name] = ActivationCache(self._folder, name, self.manifest, self.device)
        return self._others[name]

    def _gather(self, index: Tensor) -> Tensor:
        values = torch.from_numpy(_take_rows(self._shards, self._tokens_per_shard, index.numpy()))
        if self._dtype == "bfloat16":
            values = values.view(torch.bfloat16)
        return values.to(self.device, torch.float32)


def _take_rows(shards: list[np.ndarray], rows_per_shard: int, index: np.ndarray) -> np.ndarray:
    """Rows `index` of the shards, taken as one array. NumPy copies whole rows: faster here than torch's `index_select`."""
    # every index comes from a checked permutation; `clip` only spares NumPy a second buffer
    if len(shards) == 1:
        return np.take(shards[0], index, axis=0, mode="clip")
    # shard by shard, then back in order; on 16-bit keys NumPy's stable sort is a radix sort
    shard = (index // rows_per_shard).astype(np.uint16)
    by_shard = np.argsort(shard, kind="stable")
    within = index[by_shard] % rows_per_shard
    gathered = np.empty((len(index), shards[0].shape[1]), shards[0].dtype)
    start = 0
    for source, stop in zip(shards, np.cumsum(np.bincount(shard, minlength=len(shards))), strict=True):
        np.take(source, within[start:stop], axis=0, out=gathered[start:stop], mode="clip")
        start = stop
    place = np.empty_like(by_shard)
    place[by_shard] = np.arange(len(by_shard))
    return np.take(gathered, place, axis=0, mode="clip")


def _open(folder: Path, name: str, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    path = folder / name
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"activation shard {path} cannot be read ({error}); {_mend(folder)}.") from None
    if (array.dtype, array.shape) != (_STORED[dtype], shape):
        raise UserError(
            f"activation shard {path} holds {array.dtype} of shape {array.shape}, not {dtype} of {shape}; {_mend(folder)}."
        )
    return array


def _verify(folder: Path, files: dict[str, str]) -> None:
    """Compare checksums, once per file: `verified.json` remembers size and time of what was found intact."""
    stamp = folder / "verified.json"
    known = {}
    if stamp.exists():
        with contextlib.suppress(UserError):  # unreadable: all are compared again
            known = read_json(stamp, dict[str, Any])
    seen = {}
    for name, digest in files.items():
        path = folder / name
        try:
            status = os.stat(path)
            mark = [status.st_size, status.st_mtime_ns, digest]
            damaged = known.get(name) != mark and sha256_file(path) != digest
        except FileNotFoundError:
            raise UserError(f"activation file {path} is missing; {_mend(folder)}.") from None
        except OSError as error:
            raise UserError(f"activation file {path} cannot be read ({error.strerror}); {_mend(folder)}.") from None
        if damaged:
            raise UserError(f"activation file {path} is damaged (its checksum differs); {_mend(folder)}.")
        seen[name] = mark
    if any(known.get(name) != mark for name, mark in seen.items()):
        with contextlib.suppress(UserError):  # a cache that cannot be written to is checked at every start
            write_json(stamp, known | seen)


def main(
    spec: Json,
    hook_points: list[str],
    model: str,
    corpus: str,
    out: str,
    device: str,
    end_to_end: list[str] | None = None,
    fingerprint: str | None = None,
) -> None:
    """Cache activations at hook points.

    Args:
        spec: the `activations` block of the configuration.
        hook_points: where to cache them.
        model: folder of the prepared model.
        corpus: folder of the corpus.
        out: folder of the cache.
        device: where to compute: cpu or cuda.
        end_to_end: those of the hook points that runs are trained end to end at; there, the residual that the model is continued
            from is cached too.
        fingerprint: identity of the step, kept in its record.
    """
    config = parse(ActivationsConfig, json.loads(spec), "activations")
    arch = read_record(Path(model))["arch"]
    streams = [Site.parse(name, arch).stream for name in end_to_end or []]
    names = list(dict.fromkeys([*hook_points, *streams]))
    write_cache(config, names, Path(model), Path(corpus), Path(out), device, fingerprint)
