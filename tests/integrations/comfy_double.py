"""A double of ComfyUI, which no package registry has: its contract with nodes, and nothing that computes.

Written after what its documentation and its execution.py say of classes in NODE_CLASS_MAPPINGS (November 2026): how
they are found, what is checked before a run and with which words, what a node is called with, what is kept from one
run to the next, and that Cancel is no Exception.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

Prompt = dict[str, dict[str, Any]]
Hook = Callable[[int, int, Any], None]
CONVERTED = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
WIDGETS = (*CONVERTED, "COMBO")


class InterruptProcessingException(BaseException):
    """Cancel was pressed."""


class Film:
    """Its VideoFromFile."""

    def __init__(self, file: str) -> None:
        self.file = file

    def get_dimensions(self) -> tuple[int, int]:
        with av.open(self.file) as container:
            stream = container.streams.video[0]
            return stream.width, stream.height


class Picture:
    """A node of its own that gives what a test has: LoadImage."""

    given: Any = None
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def load(self) -> tuple[Any]:
        return (type(self).given,)


class Output:
    """One of its nodes that end a workflow: SaveVideo."""

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        texts = {"filename_prefix": ("STRING", {"default": "film"}), "format": (["auto", "mp4"],)}
        return {"required": {"video": ("VIDEO",), **texts, "codec": (["auto", "h264"],)}}

    def save(self, video: Film, filename_prefix: str, format: str, codec: str) -> dict[str, Any]:  # noqa: A002
        return {"ui": {"images": [video.file]}}


class Comfy:
    """One that runs: its node classes, its Cancel, and what its progress bars have shown."""

    def __init__(self, folder: Path, has_videos: bool = True) -> None:
        self.folder = folder
        self.has_videos = has_videos
        self.nodes: dict[str, Any] = {"LoadImage": Picture, "SaveVideo": Output}
        self.is_interrupted = False
        self.shown: list[tuple[int, int, Any]] = []
        self.on_progress: Hook = lambda value, total, preview: None
        self._kept: dict[str, tuple[Any, list[Any]]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Its modules stand where nodes import them from."""
        modules = self._modules()
        before = {name: sys.modules.get(name) for name in modules}
        sys.modules.update(modules)
        try:
            yield
        finally:
            for name, module in before.items():
                sys.modules.pop(name)
                if module is not None:
                    sys.modules[name] = module

    def load(self, package: Path, name: str) -> None:
        """Find the nodes of a folder, as it does below custom_nodes: by its path, whatever that is called."""
        spec = importlib.util.spec_from_file_location(
            name, package / "__init__.py", submodule_search_locations=[str(package)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
        for kind in module.NODE_CLASS_MAPPINGS.values():
            check_class(kind)
        self.nodes |= module.NODE_CLASS_MAPPINGS

    def problems(self, prompt: Prompt) -> dict[str, list[str]]:
        """What is wrong with each node of a workflow before it is run, as its `validate_inputs` finds and says it."""
        found = {node: self._problems_of(prompt, node) for node in prompt}
        return {node: problems for node, problems in found.items() if problems}

    def run(self, prompt: Prompt) -> dict[str, list[Any]]:
        """The outputs of all nodes that lead to one that ends the workflow. Raises what a node raises."""
        assert self.problems(prompt) == {}
        self.is_interrupted = False
        outputs: dict[str, list[Any]] = {}
        for node, each in prompt.items():
            if getattr(self.nodes[each["class_type"]], "OUTPUT_NODE", False):
                self._execute(prompt, node, outputs)
        return outputs

    def throw_if_interrupted(self) -> None:
        if self.is_interrupted:
            self.is_interrupted = False
            raise InterruptProcessingException

    def _execute(self, prompt: Prompt, node: str, outputs: dict[str, list[Any]]) -> None:
        if node in outputs:
            return
        kind, inputs = self.nodes[prompt[node]["class_type"]], prompt[node]["inputs"]
        for value in filter(is_link, inputs.values()):
            self._execute(prompt, value[0], outputs)
        signature = self._signature(prompt, node)
        if node in self._kept and self._kept[node][0] == signature:
            outputs[node] = self._kept[node][1]
            return
        self.throw_if_interrupted()
        given = {name: outputs[v[0]][v[1]] if is_link(v) else v for name, v in inputs.items() if name in declared(kind)}
        result = getattr(kind(), kind.FUNCTION)(**given)
        outputs[node] = list(result.get("result", ())) if isinstance(result, dict) else list(result)
        assert len(outputs[node]) == len(kind.RETURN_TYPES)
        self._kept[node] = (signature, outputs[node])

    def _signature(self, prompt: Prompt, node: str) -> Any:
        """What a node's result is kept for: its values, what it says of changes, and the same of whom it hears."""
        kind, inputs = self.nodes[prompt[node]["class_type"]], prompt[node]["inputs"]
        constants = {name: None if is_link(value) else value for name, value in inputs.items()}
        changed = kind.IS_CHANGED(**constants) if hasattr(kind, "IS_CHANGED") else False
        heard = [self._signature(prompt, value[0]) for value in inputs.values() if is_link(value)]
        return repr((prompt[node]["class_type"], sorted(constants.items(), key=str))), [changed], heard

    def _problems_of(self, prompt: Prompt, node: str) -> list[str]:
        kind, inputs = self.nodes[prompt[node]["class_type"]], prompt[node]["inputs"]
        validate = getattr(kind, "VALIDATE_INPUTS", None)
        checked = [] if validate is None else inspect.getfullargspec(validate).args
        found = []
        for name, (type_, options, is_required) in declared(kind).items():
            if name not in inputs:
                found += [f"Required input is missing: {name}"] * is_required
            elif is_link(inputs[name]):
                source, index = inputs[name]
                given = self.nodes[prompt[source]["class_type"]].RETURN_TYPES[index]
                if given != type_:
                    found.append(f"Return type mismatch between linked nodes: {name}, {given} != {type_}")
            else:
                try:
                    inputs[name] = CONVERTED[type_](inputs[name]) if type_ in WIDGETS[:-1] else inputs[name]
                except ValueError as error:
                    found.append(f"Failed to convert an input value to a {type_} value: {name}, {error}")
                    continue
                if name not in checked:
                    found += out_of_bounds(name, inputs[name], type_, options)
        if validate is not None:
            known = {name: None if is_link(inputs[name]) else inputs[name] for name in checked if name in inputs}
            if (said := validate(**known)) is not True:
                found.append(f"Custom validation failed for node: {said}")
        return found

    def _modules(self) -> Mapping[str, types.ModuleType]:
        comfy = self

        class ProgressBar:
            def __init__(self, total: int, node_id: str | None = None) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
                comfy.throw_if_interrupted()
                comfy.shown.append((value, total or self.total, preview))
                comfy.on_progress(value, total or self.total, preview)

        management = module_of(
            "comfy.model_management",
            throw_exception_if_processing_interrupted=self.throw_if_interrupted,
            processing_interrupted=lambda: self.is_interrupted,
            InterruptProcessingException=InterruptProcessingException,
        )
        utils = module_of("comfy.utils", ProgressBar=ProgressBar)
        found = [
            module_of("comfy", model_management=management, utils=utils),
            management,
            utils,
            module_of("folder_paths", get_temp_directory=lambda: str(self.folder / "temp")),
        ]
        if self.has_videos:
            implementation = module_of("comfy_api.input_impl", VideoFromFile=Film)
            found += [module_of("comfy_api", input_impl=implementation), implementation]
        return {module.__name__: module for module in found}


def module_of(name: str, **attributes: Any) -> types.ModuleType:
    """A module with these attributes, which may hold others."""
    made = types.ModuleType(name)
    made.__path__ = []
    vars(made).update(attributes)
    return made


def is_link(value: Any) -> bool:
    """Whether an input is another node's output."""
    return isinstance(value, list)


def declared(kind: Any) -> dict[str, tuple[Any, dict[str, Any], bool]]:
    """The inputs of a node class: their types, options, and whether they have to be given."""
    return {
        name: ("COMBO" if isinstance(spec[0], list) else spec[0], options_of(spec), category == "required")
        for category in ("required", "optional")
        for name, spec in kind.INPUT_TYPES().get(category, {}).items()
    }


def options_of(spec: tuple[Any, ...]) -> dict[str, Any]:
    options: dict[str, Any] = spec[1] if len(spec) > 1 else {}
    return options | ({"options": spec[0]} if isinstance(spec[0], list) else {})


def out_of_bounds(name: str, value: Any, type_: str, options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the value of a widget."""
    if "min" in options and value < options["min"]:
        yield f"Value {value} smaller than min of {options['min']}: {name}"
    if "max" in options and value > options["max"]:
        yield f"Value {value} bigger than max of {options['max']}: {name}"
    if type_ == "COMBO" and value not in options["options"]:
        yield f"Value not in list: {name}: {value!r} not in {options['options']}"


def check_class(kind: Any) -> None:
    """Hold a node class to what ComfyUI asks of each; its defaults are values that it would take."""
    inputs = kind.INPUT_TYPES()
    assert inspect.ismethod(kind.INPUT_TYPES) and set(inputs) <= {"required", "optional", "hidden"}
    assert isinstance(kind.CATEGORY, str) and isinstance(kind.DESCRIPTION, str)
    assert isinstance(kind.RETURN_TYPES, tuple) and len(kind.RETURN_NAMES) == len(kind.RETURN_TYPES)
    assert len(getattr(kind, "OUTPUT_TOOLTIPS", kind.RETURN_TYPES)) == len(kind.RETURN_TYPES)
    accepted = inspect.signature(getattr(kind, kind.FUNCTION))
    accepted.bind(None, **inputs.get("required", {}))
    for name, (type_, options, _) in declared(kind).items():
        assert type_ == type_.upper() and options["tooltip"]
        value = options.get("default", options.get("options", [None])[0])
        assert (value is not None) == (type_ in WIDGETS)
        if value is not None:
            assert not list(out_of_bounds(name, value, type_, options))
        accepted.bind_partial(None, **{name: value})
    for name in ("IS_CHANGED", "VALIDATE_INPUTS"):
        assert not hasattr(kind, name) or inspect.ismethod(getattr(kind, name))


def as_prompt(workflow: Mapping[str, Any], nodes: Mapping[str, Any]) -> Prompt:
    """What its page sends for a workflow as it is saved: widgets by their place, links by their numbers."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        if node["type"] == "Note":
            continue
        values, inputs = iter(node.get("widgets_values", [])), {}
        for name, (type_, options, _) in declared(nodes[node["type"]]).items():
            if type_ in WIDGETS:
                inputs[name] = next(values, options.get("default"))
                if options.get("control_after_generate"):
                    assert next(values) in ("fixed", "increment", "decrement", "randomize")
        assert list(values) == [] or nodes[node["type"]] is Picture
        linked = {each["name"]: sources[each["link"]] for each in node.get("inputs", []) if each["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | linked}
    return prompt
