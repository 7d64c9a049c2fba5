"""The request's tools as the model is offered them, and the model's calls as the client knows them.

Owns the names: functions of a namespace and freeform tools become plain functions on the way in, and themselves again on the
way out. Knows no events and no items.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenwell.api.errors import bad_request
from tokenwell.api.responses.freeform import SCHEMA
from tokenwell.api.responses.requests import CustomTool, FunctionTool, Json, NamespaceTool, convert
from tokenwell.chat.conversation import ToolChoice

_MODES = ("auto", "none", "required")


@dataclass(frozen=True)
class Known:
    """A tool by the client's names."""

    name: str
    namespace: str | None = None
    freeform: bool = False


@dataclass
class Toolbox:
    """All tools of one request."""

    schemas: list[Json] = field(default_factory=list)  # as templates expect them
    fields: list[str] = field(default_factory=list)  # where in the request their parameters are
    warnings: list[str] = field(default_factory=list)
    _known: dict[str, Known] = field(default_factory=dict)  # by the name that the model is offered

    def known(self, offered: str) -> Known:
        """The tool that the model calls by this name; a name that was never offered stands for itself."""
        return self._known.get(offered, Known(offered))

    def offered(self, name: str, namespace: str | None) -> str:
        """The name that the model knows a tool by, also one that is not offered any more but was called earlier."""
        for offered, known in self._known.items():
            if known.name == name and known.namespace == namespace:
                return offered
        return _flat(name, namespace)

    def named(self, name: str, namespace: str | None) -> list[str]:
        """The offered names of what a tool choice names; a bare name also finds the functions of namespaces."""
        if namespace is None and name in self._known:
            return [name]
        return [
            offered
            for offered, known in self._known.items()
            if known.name == name and (namespace is None or known.namespace == namespace)
        ]

    def in_namespace(self, namespace: str) -> list[str]:
        """The offered names of everything in a namespace."""
        return [offered for offered, known in self._known.items() if known.namespace == namespace]

    def add(self, tool: Json, path: str, namespace: str | None = None) -> None:
        """Offer a tool; one of a type that a model without hosted tools cannot call is skipped, with a warning."""
        type_ = tool.get("type")
        if type_ == "function":
            # The shape of the Chat dialect is accepted too: agents mix the two up.
            inner = tool.get("function")
            nested = isinstance(inner, dict) and "name" not in tool
            function = convert(inner if nested else tool, FunctionTool, f"{path}.function" if nested else path)
            self._offer(Known(function.name, namespace), function.description, function.parameters, function.strict, path)
        elif type_ == "custom":
            custom = convert(tool, CustomTool, path)
            self._offer(Known(custom.name, namespace, freeform=True), _described(custom), SCHEMA, None, path)
        elif type_ == "namespace" and namespace is None:
            group = convert(tool, NamespaceTool, path)
            for index, member in enumerate(group.tools):
                self.add(member, f"{path}.tools[{index}]", group.name)
        elif isinstance(type_, str):
            self.warnings.append(
                f"{path} of type {type_[:40]} was skipped: only function, custom and namespace tools can be offered"
            )
        else:
            raise bad_request(f"`{path}.type` is missing.", f"{path}.type", "missing_field")

    def _offer(self, known: Known, description: str | None, parameters: Json | None, strict: bool | None, path: str) -> None:
        offered = _flat(known.name, known.namespace)
        if offered in self._known:
            raise bad_request(f"There are two tools with the name `{offered}`.", path, "duplicate_tool")
        self._known[offered] = known
        function: dict[str, Any] = {"name": offered}
        if description is not None:
            function["description"] = description
        if parameters is not None:
            function["parameters"] = parameters
        if strict is not None:
            function["strict"] = strict
        self.schemas.append({"type": "function", "function": function})
        self.fields.append(f"{path}.parameters")


def toolbox(tools: list[Json] | None) -> Toolbox:
    """The request's tools. Raises ApiError 400 naming the tool at fault."""
    box = Toolbox()
    for index, tool in enumerate(tools or ()):
        box.add(tool, f"tools[{index}]")
    return box


def choice_of(wanted: str | Json | None, box: Toolbox) -> ToolChoice:
    """Whether and what to call. Raises ApiError 400 for what is not offered."""
    if wanted is None:
        return ToolChoice()
    if isinstance(wanted, str):
        if wanted not in _MODES:
            raise bad_request("`tool_choice` must be `auto`, `none`, `required` or a tool.", "tool_choice", "invalid_value")
        if wanted == "required" and not box.schemas:
            raise bad_request("`tool_choice` is `required`, but there are no tools to call.", "tool_choice", "invalid_value")
        return ToolChoice(wanted)  # type: ignore[arg-type]
    if wanted.get("type") == "allowed_tools":
        return _allowed(wanted, box)
    return ToolChoice("required", tuple(_names(wanted, box, "tool_choice")))


def _allowed(wanted: Json, box: Toolbox) -> ToolChoice:
    mode, tools = wanted.get("mode", "auto"), wanted.get("tools")
    if mode not in ("auto", "required"):
        raise bad_request("`tool_choice.mode` must be `auto` or `required`.", "tool_choice.mode", "invalid_value")
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
        raise bad_request("`tool_choice.tools` must be a list of tools.", "tool_choice.tools", "invalid_value")
    names = [name for index, tool in enumerate(tools) for name in _names(tool, box, f"tool_choice.tools[{index}]")]
    return ToolChoice(mode, tuple(dict.fromkeys(names)))


def _names(wanted: Json, box: Toolbox, path: str) -> list[str]:
    type_, name, namespace = wanted.get("type"), wanted.get("name"), wanted.get("namespace")
    if type_ not in ("function", "custom", "namespace"):
        raise bad_request(
            f"`{path}.type` must be `function`, `custom` or `namespace`: other tools cannot be called here.",
            f"{path}.type",
            "unsupported_value",
        )
    inner = wanted.get("function")
    if name is None and isinstance(inner, dict):  # the shape of the Chat dialect
        name = inner.get("name")
    if not isinstance(name, str) or not (namespace is None or isinstance(namespace, str)):
        raise bad_request(f"`{path}.name` must be the name of a tool.", f"{path}.name", "missing_field")
    found = box.in_namespace(name) if type_ == "namespace" else box.named(name, namespace)
    if not found:
        raise bad_request(f"`{path}` names the tool `{name[:80]}`, which is not in `tools`.", path, "invalid_value")
    return found


def _flat(name: str, namespace: str | None) -> str:
    """One name for a function of a namespace; underscores, because models and their formats take few other characters."""
    return name if namespace is None else f"{namespace.rstrip('_')}__{name}"


def _described(tool: CustomTool) -> str | None:
    """The description, with the grammar that the text must follow: the model sees it nowhere else."""
    format_ = tool.format
    if format_ is None or format_.definition is None:
        return tool.description
    grammar = f"The input must match this {format_.syntax or 'formal'} grammar:\n{format_.definition}"
    return grammar if not tool.description else f"{tool.description}\n\n{grammar}"
