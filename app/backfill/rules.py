"""What can be said of a line without a service: the rules of the content, for `import --dry-run`.

The same validators as the service's own; what depends on other profiles (an e-mail that is taken) is not looked at.
"""

from typing import Any

from app.backfill.lines import MAX_LINE_BYTES, Line
from app.http.errors import to_problem
from app.http.headers import is_uid
from app.http.media import parse_json
from app.http.problems import Problem
from app.profiles.email import EmailPolicy
from app.profiles.results import Rejection, ValidationFailed
from app.profiles.schema import Validator, uid_error


class Rules:
    """The rules under one policy. Any thread."""

    def __init__(self, policy: EmailPolicy) -> None:
        self._validator = Validator(policy)

    def judge(self, line: Line) -> dict[str, Any] | None:
        """Return why *line* would be refused whatever else there is, or None."""
        try:
            if line.is_too_long:
                raise _too_long()
            document = parse_json(line.text)
            if not isinstance(document, dict) or "uid" not in document:
                self._validator.new(document)
            else:
                self._validator.exported(document, _checked_uid(document["uid"]))
        except (Problem, Rejection) as error:
            problem = to_problem(error)
            return {"reason": problem.type.slug, "detail": problem.detail, **problem.members}
        return None


def _checked_uid(uid: object) -> str:
    if type(uid) is not str or is_uid(uid) is None:
        raise ValidationFailed([uid_error()])
    return uid


def _too_long() -> Problem:
    return Problem("payload-too-large", f"a line may have {MAX_LINE_BYTES} bytes", limit=MAX_LINE_BYTES)
