"""What a function takes and returns: which value belongs to which parameter, and how that one is annotated."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, get_type_hints

from queuekit.errors import ConfigError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# The name of the result among the parameters, and in PayloadError.parameter.
RETURN = "return"


class Signature:
    def __init__(self, fn: Callable[..., Any], task: str) -> None:
        self._fn = fn
        self._task = task
        self._signature = signature_of(fn, task)
        parameters = self._signature.parameters.values()
        self._positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self._required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
        self._all_by_place = set(self._required) <= set(self._positional)
        self._rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._rest_by_name = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)

    def names(self) -> tuple[str, ...]:
        """Every parameter, and RETURN."""
        return (*self._signature.parameters, RETURN)

    def place(self, name: str, key: str) -> str:
        """How messages call the value that was given as `key` for the parameter `name`."""
        return f"{self._task}: the result" if name == RETURN else f"{self._task}: argument {key!r}"

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, why: str) -> tuple[list[str], dict[str, str]]:
        """The parameter's name for each positional argument, and for each keyword.

        Raises:
            PayloadError: the function cannot be called with them; `why` goes into the message.
        """
        if not kwargs and len(args) == len(self._positional) and self._all_by_place:
            return self._positional, {}
        places = self._positional[: len(args)]
        if len(args) > len(places):
            if self._rest is None:
                raise PayloadError(
                    f"{self._text()} takes at most {len(places)} positional arguments, but {len(args)} were given{why}"
                )
            places += [self._rest] * (len(args) - len(places))

        names: dict[str, str] = {}
        for key in kwargs:
            if key in self._keyword:
                if key in places:
                    raise self._refusal(key, f"is given twice, by place and by name{why}")
                names[key] = key
            elif self._rest_by_name is not None:
                names[key] = self._rest_by_name
            elif key in self._signature.parameters:
                raise self._refusal(key, f"can only be given by place, not by name{why}")
            else:
                raise self._refusal(key, f"is unknown{why}{self._suggestion(key)}")

        for name in self._required:
            if name not in places and names.get(name) != name:
                raise self._refusal(name, f"is missing{why}; the task is {self._text()}")
        return places, names

    def annotation(self, name: str) -> Any:
        """The annotation of a parameter, or of RETURN, with its forward references resolved.

        Raises:
            ConfigError: it names what is not there.
        """
        parameters = self._signature.parameters
        raw = self._signature.return_annotation if name == RETURN else parameters[name].annotation
        try:
            return _resolved(raw, self._fn)
        except Exception as exc:  # evaluating a string can raise anything
            raise ConfigError(
                f"{self.place(name, name)}: its annotation {raw!r} cannot be resolved ({type(exc).__name__}: {exc}); "
                f"import or define what it names at the top level of the task's module, outside of `if TYPE_CHECKING`"
            ) from exc

    def _refusal(self, parameter: str, what: str) -> PayloadError:
        return PayloadError(f"{self.place(parameter, parameter)} {what}", parameter=parameter)

    def _suggestion(self, key: str) -> str:
        import difflib

        near = difflib.get_close_matches(str(key), self._keyword, n=1)
        return f"; did you mean {near[0]!r}?" if near else f"; the task is {self._text()}"

    def _text(self) -> str:
        # Without defaults, whose text could be anything; without annotations, which only make it long.
        shown = [p.replace(annotation=p.empty, default=p.empty) for p in self._signature.parameters.values()]
        return f"{self._task}{inspect.Signature(shown)}"


def signature_of(fn: Callable[..., Any], task: str) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib  # annotations are evaluated lazily there, and may name what is defined later

            return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(fn)
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"{task}: {fn!r} has no signature that can be read; wrap it in a function with `def`"
        ) from exc


def _resolved(annotation: Any, fn: Callable[..., Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return annotation

    def holder() -> None: ...

    # One at a time, so that an error belongs to one parameter.
    holder.__annotations__ = {"it": annotation}
    return get_type_hints(holder, globalns=_globals(fn), include_extras=True)["it"]


def _globals(fn: Any) -> dict[str, Any]:
    fn = inspect.unwrap(fn)
    while hasattr(fn, "func"):  # functools.partial
        fn = inspect.unwrap(fn.func)
    if not hasattr(fn, "__globals__"):  # an object with __call__
        fn = type(fn).__call__
    found: dict[str, Any] = getattr(fn, "__globals__", {})
    return found
