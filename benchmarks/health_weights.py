"""Whether the weights of each family of models are on this machine, and whether their addresses answer."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from generators import registry
from generators.base import GeneratorSpec
from generators.finding import FAILED, OK, SKIPPED, WARNING, Finding
from generators.hub import WEIGHTS_VARIABLE, local_folder, zoo_place
from generators.weights import ZOO, zoo_file

from .health_stores import some
from .needs import Need, model_need, size_text
from .predictors.base import PredictorSpec

TIMEOUT = 5.0  # seconds an address has to answer
AT_ONCE = 8  # addresses asked at the same time
ANSWERS = (405, 501)  # it is there, and does not answer this question
POINTER = b"version https://git-lfs"  # what a large file of a repository is before it is fetched


def families() -> Iterator[Finding]:
    """Each family of models: how many come with the package, are on this machine, or have to be fetched."""
    found: dict[str, list[GeneratorSpec]] = defaultdict(list)
    for spec in registry.specs():
        found[spec.name.partition(".")[0]].append(spec)
    for name, specs in found.items():
        yield family(name, specs)
    for name, why in registry.broken_plugins().items():
        yield Finding(WARNING, f"plugin {name}", "it cannot be imported", why, f"mend or uninstall {name!r}")
    for name, told in registry.taken_names().items():
        cure = f"rename it in the plugin, or uninstall {name!r}"
        yield Finding(WARNING, f"plugin {name}", told, "two models of one name", cure)
    yield from predictor_plugins()


def predictor_plugins() -> Iterator[Finding]:
    """Plugins of predictors that cannot be imported, have broken facts, or names of others."""
    from benchmarks.predictors import registry as predictors

    for name, why in predictors.broken_plugins().items():
        yield Finding(WARNING, f"plugin {name}", "it cannot be imported", why, f"mend or uninstall {name!r}")
    for name, why in predictors.faulty_predictors().items():
        cure = "mend its PredictorSpec in the plugin"
        yield Finding(WARNING, f"predictor {name}", "its facts are broken", why, cure)
    for name, told in predictors.taken_names().items():
        cure = f"rename it in the plugin, or uninstall {name!r}"
        yield Finding(WARNING, f"plugin {name}", told, "two predictors of one name", cure)


def family(name: str, specs: Iterable[GeneratorSpec]) -> Finding:
    """One family; models whose weights have to be fetched are no fault."""
    what, specs = f"weights of {name}", list(specs)
    lost = [(spec, reason) for spec in specs if spec.embedded and (reason := lacking(spec))]
    if lost:
        spec, reason = lost[0]
        why = "the package was copied without its large files"
        cure = "git lfs pull in the repository, or install the package again"
        if spec.source and not place(spec).is_relative_to(spec.source):
            why = f"{WEIGHTS_VARIABLE} is set: the model's folder there stands for the package's, as a whole"
            cure = f"train that stage, too, or unset {WEIGHTS_VARIABLE}"
        return Finding(FAILED, what, reason, why, cure)
    needs = [need for spec in specs if (need := model_need(spec.name)) is not None]
    missing = [need for need in needs if not need.here]
    own = sum(spec.embedded for spec in specs)
    counts = ((own, "come with the package"), (len(needs) - len(missing), "fetched and here"),
              (len(missing), "to be fetched"))  # fmt: skip
    text = ", ".join(f"{count} {what}" for count, what in counts if count) or f"{len(specs)} need none"
    if not missing:
        return Finding(OK, what, text)
    return Finding(SKIPPED, what, f"{text}: {', '.join(map(_sized, missing))}", cure=_command(missing))


def _sized(need: Need) -> str:
    return need.name if need.bytes is None else f"{need.name} {size_text(need.bytes)}"


def _command(missing: Iterable[Need]) -> str:
    return f"{next(iter(missing)).command} (or the like for another) to have it beforehand"


def place(spec: GeneratorSpec) -> Path:
    """The folder, or the file, that an embedded model is read from: the user's own if there is one."""
    if "stage" in spec.options and Path(str(spec.source)).is_relative_to(ZOO):
        return zoo_file(spec)
    return local_folder(spec) or zoo_place(spec)


def lacking(spec: GeneratorSpec) -> str:
    """What an embedded model lacks; "" if its files are there and are no mere pointers."""
    folder = place(spec)
    if not folder.exists() and spec.trained == 0:
        return ""  # random weights are drawn, not read
    if not spec.source or not folder.exists():
        return f"{spec.name}: there is no {folder}"
    inside = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    if not inside:
        return f"{spec.name}: {folder} is empty"
    for path in inside:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                return f"{path} is a pointer of Git LFS, not the file"
    return ""


# The network, which nothing touches unless it is asked to.


def addresses() -> dict[str, str]:
    """What can be fetched to the address that is asked first: models, predictors, parts of data sets."""
    from benchmarks.data.diode.archives import ARCHIVES
    from benchmarks.predictors.registry import PREDICTORS
    from generators.sources import SOURCES

    found = {name: source.urls[0] for name, source in SOURCES.items() if source.urls}
    specs: list[GeneratorSpec | PredictorSpec] = [*registry.specs(), *PREDICTORS.values()]
    for spec in specs:
        if not spec.embedded and spec.source and spec.name not in found:
            found[spec.name] = spec.source if "://" in spec.source else hub(spec.source)
    return found | {name: archive.url for name, archive in ARCHIVES.items()}


def hub(repository: str) -> str:
    """Address of a repository of the hub, or of the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


def network(asked: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> Iterator[Finding]:
    """Whether each address answers: its head alone is asked for, nothing is fetched.

    Args:
        asked: name to address; None for everything that can be fetched.
        timeout: seconds for each.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for name, address in (addresses() if asked is None else asked).items():
        named[address].append(name)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = dict(zip(named, pool.map(lambda address: refusal(address, timeout), named), strict=True))
    alike: dict[str, list[str]] = defaultdict(list)
    for address in filter(wrong.get, named):
        alike[wrong[address]].append(address)
    for reason, group in alike.items():
        text = some(f"{reason}, addresses", [f"{address} ({', '.join(named[address])})" for address in group])
        why = "no network, a proxy or a firewall in between, or it has moved"
        cure = (
            f"open {group[0]} in a browser; behind a proxy set HTTPS_PROXY; or, once you have the file from "
        )
        cure += f"elsewhere: intrinsic-bench fetch {named[group[0]][0]} --from FILE"
        yield Finding(WARNING, "network", text, why, cure)
    answering = sum(not each for each in wrong.values())
    if answering:
        yield Finding(OK, "network", f"{answering} of {len(named)} addresses answer")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        why = "models of the hub cannot be fetched as long as it is set"
        yield Finding(WARNING, "network", "HF_HUB_OFFLINE is set", why, "unset HF_HUB_OFFLINE to fetch")


class _Head(HTTPRedirectHandler):
    """Asks for the head again where an address is elsewhere; by itself urllib would ask for the whole."""

    def redirect_request(self, req: Request, *told: Any) -> Request | None:
        """The request for the new address."""
        found = super().redirect_request(req, *told)
        if found is not None:
            found.method = "HEAD"
        return found


def refusal(address: str, timeout: float = TIMEOUT) -> str:
    """Why an address does not give what it should; "" if it answers."""
    request = Request(address, method="HEAD", headers={"User-Agent": "intrinsic-bench doctor"})
    try:
        with build_opener(_Head).open(request, timeout=timeout):
            return ""
    except HTTPError as error:
        error.close()
        return "" if error.code in ANSWERS else f"HTTP {error.code} {error.reason}".strip()
    except (OSError, HTTPException) as error:
        why = error.reason if isinstance(error, URLError) else error
        return f"no answer within {timeout:g} seconds" if isinstance(why, TimeoutError) else str(why)
