"""Several refusals reported together: a user corrects all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from constitution.errors import UserError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class RefusedError(UserError):
    """Several problems of one call; `problems` has each as the error of its own kind."""

    def __init__(self, problems: Sequence[UserError]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


class Problems:
    """Collects the UserErrors of several checks.

    problems = Problems()
    folder = problems.attempt(catalog.resolve, model)     # None where it raised
    problems.refuse()                                     # raises what was found
    """

    def __init__(self) -> None:
        self.found: list[UserError] = []

    def attempt(
        self,
        check: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result | None:
        """The check's result, or None where it raised a UserError, which is kept."""
        try:
            return check(*args, **kwargs)
        except UserError as error:
            self.found.append(error)
            return None

    def refuse(self) -> None:
        """Raise the problem, or RefusedError for more than one."""
        refuse(self.found)


def refuse(problems: Sequence[UserError]) -> None:
    """Raise the only problem, or RefusedError for more than one; return where there is none."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise RefusedError(problems)


def checked(value: Result | None) -> Result:
    """A value of `Problems.attempt` once nothing was refused."""
    assert value is not None, "refused above"
    return value
