"""Workspace code: compiled once in the template, executed afresh in the processes forked from it.

Workspace modules are never imported in the template: their top level is user code, which must run with the
rights, limits and descriptors of a run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any, NamedTuple

_SHARED_NAMES = ("shared", "src")
"""Packages of the platform whose names workspaces use for folders of their own."""
PROTECTED = sys.stdlib_module_names | {"bifrost", *_SHARED_NAMES}
_State = tuple[int, int, int]
"""Of a file: when it was changed last, how large it is, and which file it is."""


class CodeCache:
    """Code objects by path, valid as long as the file is in the same state."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[_State, CodeType]] = {}
        self._executed: dict[str, _State] = {}
        """What was executed in this process."""

    def execute(self, path: str, namespace: dict[str, Any]) -> None:
        """Execute a file, and remember which state of it that was."""
        self._executed[path], code = self._current(path)
        exec(code, namespace)

    def is_stale(self) -> bool:
        """Whether a file that was executed here is another by now, or gone."""
        try:
            return any(_state_of(path) != state for path, state in self._executed.items())
        except OSError:
            return True

    def forget_executed(self) -> None:
        self._executed.clear()

    def load(self, path: str) -> CodeType:
        return self._current(path)[1]

    def _current(self, path: str) -> tuple[_State, CodeType]:
        # Before it is read: what changes in between is seen to have changed.
        state = _state_of(path)
        entry = self._entries.get(path)
        if entry is None or entry[0] != state:
            with open(path, "rb") as file:
                source = file.read()
            entry = self._entries[path] = (state, compile(source, path, "exec", dont_inherit=True))
        return entry


def _state_of(path: str) -> _State:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino


class WorkspaceLoader(Loader):
    def __init__(self, cache: CodeCache, path: str) -> None:
        self._cache = cache
        self._path = path

    def exec_module(self, module: ModuleType) -> None:
        self._cache.execute(self._path, module.__dict__)

    def get_source(self, _name: str) -> str:
        with open(self._path, encoding="utf-8", errors="replace") as file:
            return file.read()


class KeptLoader(Loader):
    """Gives a module that was executed before."""

    def __init__(self, kept: dict[str, ModuleType]) -> None:
        self._kept = kept

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._kept.pop(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


class WorkspaceFile(NamedTuple):
    """A file with workflows, as the module it is loaded as."""

    path: str
    folder: str
    name: str
    spec: ModuleSpec


class WorkspaceFinder(MetaPathFinder):
    """Finds workspace modules, relative to the workspace and to the folder of the file that runs.

    It stands before the path finder, so that a workspace file wins over an installed package of the same
    name, but never over the standard library or the SDK. Plain folders are left to `FolderFinder`.

    The same name may mean another file in another folder, so each folder has modules of its own: what a run
    gets must not depend on what ran in this process before.
    """

    def __init__(self, root: str, cache: CodeCache) -> None:
        self.root = root
        self.cache = cache
        self.folder = ""
        """The one that was entered; empty in a process that has run nothing yet."""
        self.places: tuple[str, ...] = (root,)
        """Where bare imports are resolved."""
        self._given = frozenset(sys.modules)
        """What every process begins with, whatever it runs."""
        self._left: dict[str, dict[str, ModuleType]] = {}
        """The modules of folders that were left, for when they are entered again."""
        self._hidden: dict[str, ModuleType] = {}
        """Installed modules whose name is that of a workspace file here."""
        self._files: dict[str, WorkspaceFile] = {}
        self._running: WorkspaceFile | None = None
        self._ran: set[str] = set()
        """Names of workflow files in folders that were loaded in this process."""
        self._waiting: dict[str, ModuleType] = {}
        """Those of them that are out of the way, see `_stand_aside`."""
        self.loaded = 0
        """How often a workflow file was executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None:
            if fullname in PROTECTED:
                return None
            for place in self.places:
                spec = self._spec(fullname, f"{place}/{fullname}")
                if spec is not None:
                    return spec
            return None
        for place in path:
            if place.startswith(self.root):
                spec = self._spec(fullname, f"{place}/{fullname.rpartition('.')[2]}")
                if spec is not None:
                    known = self._waiting.get(fullname)
                    if known is not None and known.__file__ == spec.origin:
                        spec.loader = KeptLoader(self._waiting)
                    return spec
        return None

    def _spec(self, fullname: str, base: str) -> ModuleSpec | None:
        if os.path.isfile(base + ".py"):
            return self.spec_of(fullname, base + ".py")
        if os.path.isfile(base + "/__init__.py"):
            spec = self.spec_of(fullname, base + "/__init__.py")
            spec.submodule_search_locations = [base]
            return spec
        return None

    def spec_of(self, name: str, path: str) -> ModuleSpec:
        spec = ModuleSpec(name, WorkspaceLoader(self.cache, path), origin=path)
        spec.has_location = True
        return spec

    def enter_folder(self, folder: str) -> None:
        """Resolve bare imports in `folder` from now on, with the modules it had when it was left."""
        if folder == self.folder:
            return
        left, self.folder = self.folder, folder
        self.places = (folder, self.root) if folder != self.root else (folder,)
        # A new process has nothing to put away, and looking for it would copy pages of the template.
        if left:
            self._left[left] = self._take_own() | self._waiting
            self._waiting, self._running = {}, None
            self._hide_installed()
            sys.modules.update(self._left.pop(folder, {}))

    def forget_modules(self) -> None:
        """Drop every workspace module of this process, because the workspace changed."""
        self.cache.forget_executed()
        self._left.clear()
        self._ran.clear()
        self._waiting = {}
        self._take_own()
        self._hide_installed()

    def forget_rehearsal(self) -> None:
        self.cache.forget_executed()
        self.folder, self.places, self._running = "", (self.root,), None
        _take([name for name in sys.modules if name.startswith("_workspace_")])

    def _take_own(self) -> dict[str, ModuleType]:
        """Remove the workspace modules from `sys.modules`."""
        there = list(sys.modules.items())
        return _take([name for name, module in there if name not in self._given and self._is_own(module)])

    def _is_own(self, module: ModuleType) -> bool:
        # Asking the module itself could make a lazy one import something.
        known = getattr(module, "__dict__", {})
        origin = known.get("__file__") or next(iter(known.get("__path__") or ()), "")
        return isinstance(origin, str) and (origin == self.root or origin.startswith(self.root + os.sep))

    def _hide_installed(self) -> None:
        """Remove installed modules that a workspace file wins over here, and restore those removed before.

        They are kept, because not every installed package can be imported a second time.
        """
        sys.modules.update(self._hidden)
        installed = {name.partition(".")[0] for name in sys.modules.keys() - self._given} - self._given
        shadowed = {name for name in installed if self.find_spec(name) is not None}
        self._hidden = _take([name for name in list(sys.modules) if name.partition(".")[0] in shadowed])

    def file(self, relative: str) -> WorkspaceFile:
        """What is known of a path below the workspace; worked out once per path."""
        known = self._files.get(relative)
        if known is None:
            path = os.path.normpath(os.path.join(self.root, relative))
            name = os.path.relpath(path, self.root)[:-3].replace(os.sep, ".")
            if name.partition(".")[0] in PROTECTED or name.startswith("."):
                name = f"_workspace_{name.replace('.', '_')}"
            known = WorkspaceFile(path, os.path.dirname(path), name, self.spec_of(name, path))
            self._files[relative] = known
        return known

    def load_file(self, file: WorkspaceFile) -> ModuleType:
        """Execute the file of a workflow as the module an import of it would give."""
        if file is not self._running:
            self._stand_aside(file.name)
            self._running = file
        known = sys.modules.get(file.name)
        if known is not None and getattr(known, "__file__", None) == file.path:
            return known
        self.loaded += 1
        module = ModuleType(file.name)
        module.__file__ = file.path
        module.__package__ = file.name.rpartition(".")[0]
        module.__spec__ = file.spec
        module.__loader__ = file.spec.loader
        sys.modules[file.name] = module
        try:
            self.cache.execute(file.path, module.__dict__)
        except BaseException:
            sys.modules.pop(file.name, None)
            raise
        if "." in file.name:
            self._ran.add(file.name)
        return module

    def _stand_aside(self, name: str) -> None:
        """Take what ran before the file `name` out of the way of `import folder.file`.

        A workflow file is loaded without the package it is in. An import that finds it in memory would not
        make it a member of that package; so it waits, and is given to the import that asks for it.
        """
        if (module := self._waiting.pop(name, None)) is not None:
            sys.modules[name] = module
        for other in self._ran:
            if other == name or (module := sys.modules.get(other)) is None:
                continue
            package, _, member = other.rpartition(".")
            if (parent := sys.modules.get(package)) is None:
                self._waiting[other] = sys.modules.pop(other)
            elif member not in parent.__dict__:
                setattr(parent, member, module)


class FolderFinder(MetaPathFinder):
    """Lets workspace folders without `__init__.py` be packages; last in line, as namespace packages are.

    So it also finds what is in a workspace folder with the name of a package of the platform, which wins.
    """

    def __init__(self, finder: WorkspaceFinder) -> None:
        self._finder = finder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None:
            return self._in_shared(fullname) if fullname.partition(".")[0] in _SHARED_NAMES else None
        return None if fullname in PROTECTED else self._folder_spec(fullname, fullname)

    def _in_shared(self, fullname: str) -> ModuleSpec | None:
        below = fullname.replace(".", "/")
        for place in self._finder.places:
            spec = self._finder._spec(fullname, f"{place}/{below}")
            if spec is not None:
                return spec
        return self._folder_spec(fullname, below)

    def _folder_spec(self, fullname: str, below: str) -> ModuleSpec | None:
        folders = [f"{place}/{below}" for place in reversed(self._finder.places)]
        found = [folder for folder in folders if os.path.isdir(folder)]
        if not found:
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = found
        return spec


def _take(names: Iterable[str]) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in names}


def install(root: str, cache: CodeCache) -> WorkspaceFinder:
    """Make the workspace importable in this process and its children."""
    finder = WorkspaceFinder(root, cache)
    path_finder: Any = next((f for f in sys.meta_path if getattr(f, "__name__", "") == "PathFinder"), None)
    at = sys.meta_path.index(path_finder) if path_finder else len(sys.meta_path)
    sys.meta_path.insert(at, finder)
    sys.meta_path.append(FolderFinder(finder))
    return finder
