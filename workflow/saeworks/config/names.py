"""The kinds of text that a configuration holds, each with one rule, which its error says in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

_LONGEST = 64  # of a name: a run's folder is named after its group, sparsity and seed
_PART = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"  # of a name on the hub
_HOOKS = r"^blocks\.(0|[1-9][0-9]{0,3})\.(%s)$"


@dataclass(frozen=True)
class Called:
    """What config/README.md calls a kind of text, and the pattern in the JSON schema."""

    words: str
    pattern: str | None = None

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(core) | ({"pattern": self.pattern} if self.pattern else {})


def _fault(rule: str) -> PydanticCustomError:
    return PydanticCustomError("text", "{rule}", {"rule": rule})


def _matches(pattern: str, rule: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, flags=re.ASCII):
            raise _fault(rule)
        return value

    return AfterValidator(check)


def _text(pattern: str, rule: str, words: str) -> Any:
    return Annotated[str, _matches(pattern, rule), Called(words, pattern)]


Name = _text(
    rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}$",
    "folders are named after it, so use letters from A to Z, digits, `.`, `_` and `-`, beginning with a letter or digit, at most "
    f"{_LONGEST} of them",
    "name (no spaces or slashes)",
)
HubName = _text(
    rf"^(?!.*(\.\.|--)){_PART}(/{_PART})?$",
    "a name on the Hugging Face hub is `name` or `owner/name`, each of at most 96 letters from A to Z, digits, `.`, `_` and `-`",
    "name on the hub",
)
Revision = _text(
    r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$",
    "a branch, tag or commit has letters from A to Z, digits, `.`, `_`, `-` and `/`",
    "branch, tag or commit",
)
HookPoint = _text(
    _HOOKS % r"hook_resid_pre|hook_resid_post|hook_mlp_out|hook_attn_out|attn\.hook_z",
    "a hook point is `blocks.L.hook_resid_pre`, `blocks.L.hook_resid_post`, `blocks.L.hook_mlp_out`, `blocks.L.hook_attn_out` or "
    "`blocks.L.attn.hook_z`, with a block's number for L",
    "hook point",
)
AnyHookPoint = _text(
    _HOOKS % r"hook_resid_pre|hook_resid_mid|hook_resid_post|hook_mlp_out|hook_attn_out|attn\.hook_z",
    "a hook point is `blocks.L.hook_resid_pre`, `blocks.L.hook_resid_mid`, `blocks.L.hook_resid_post`, `blocks.L.hook_mlp_out`, "
    "`blocks.L.hook_attn_out` or `blocks.L.attn.hook_z`, with a block's number for L",
    "hook point",
)
FilePath = _text(
    r"^[^\x00-\x1f{}]{1,1000}$", "a path has a character at least, and neither braces, line breaks nor control characters", "path"
)


def _is_color(value: str) -> str:
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", value):
        from matplotlib.colors import is_color_like  # slow import, for a colour that a user has set by name

        if not is_color_like(value):
            raise _fault("matplotlib knows no such colour, so write it as `#0072B2`, or by a name such as `red`")
    return value


Color = Annotated[str, AfterValidator(_is_color), Called("colour (`#0072B2`, or a name that matplotlib knows)")]
