"""The parser of every verb: it refuses what it does not know, and names the nearest it does."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn


class VerbParser(argparse.ArgumentParser):
    """Like its base, but a verb itself refuses what is written behind it and means nothing.

    The base leaves that to the outermost parser, whose usage says nothing of the verb's options.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the base's; exits with status 2 where something is left that no option takes."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.refuse(rest)
        return found, rest

    def refuse(self, rest: list[str]) -> NoReturn:
        """Print the usage and the first of these words; exits with status 2."""
        word = next((word for word in rest if word.startswith("-")), rest[0])
        option = word.partition("=")[0]
        if not option.startswith("-"):
            self.error(f"one argument too many: {word!r}")
        # Dashes say nothing: with them, --help is near to whatever is short.
        known = {name.lstrip("-"): name for name in self._option_string_actions}
        near = difflib.get_close_matches(option.lstrip("-"), known, n=1)
        advice = (
            f"did you mean {known[near[0]]}?" if near else f"'{self.prog} --help' shows them all"
        )
        self.error(f"no option {option}; {advice}")

    def error(self, message: str) -> NoReturn:
        """As the base's; where an action is missing, it says which there are."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and message.endswith(
                f"required: {action.metavar}"
            ):
                message += f", one of {', '.join(action.choices)}"
        super().error(message)


def sentence(summary: str) -> str:
    """A summary as the first line of a help; names in it keep their capitals."""
    return f"{summary[0].upper()}{summary[1:]}."


def describe_actions(parser: argparse.ArgumentParser) -> None:
    """Give each action of a verb, where it has none, its summary as the first line of its help, and
    the verb a last line that leads there."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser.epilog = parser.epilog or (
                f"'{parser.prog} {action.metavar} --help' teaches one of them, with examples."
            )
            for listed in action._choices_actions:
                inner = action.choices[listed.dest]
                if inner.description is None:
                    inner.description = sentence(listed.help or listed.dest)
                describe_actions(inner)
