"""The five steps that the project began with: the very commands, and what they must answer."""
# The commands stay as they were written.

import re
import subprocess
from collections.abc import Mapping

import pytest

from tests.e2e.conftest import NewService
from tests.support.curl import needs_curl
from tests.support.service import Service

# Verbatim, but for the port, the uid (from the first answer) and -s, which silences the progress bar.
CREATE = """curl -XPOST -H "Content-Type: application/json" -d '{"username": "bob", "email": "bob1@mail.com"}' http://localhost:8080/api/profile"""
GET = """curl -XGET -H "Accept: application/json" http://localhost:8080/api/profile/74292b21-0fbb-4f1d-a18f-fa80f947fa5d"""
SEARCH = r"""curl -XGET -H "Accept: application/json" http://localhost:8080/api/search\?email\=bob1@mail.com"""
CHANGE = """curl -XPUT -H "Content-Type: application/json" -d '{"username": "bob", "email": "bob2@mail.com"}' http://localhost:8080/api/profile/74292b21-0fbb-4f1d-a18f-fa80f947fa5d"""
SEARCH_AGAIN = r"""curl -XGET -H "Accept: application/json" http://localhost:8080/api/search\?email\=bob2@mail.com"""
DELETE = """curl -XDELETE http://localhost:8080/api/profile/74292b21-0fbb-4f1d-a18f-fa80f947fa5d"""


def curl(service: Service, command: str, uid: str = "") -> str:
    """Run *command* against *service* and return the body."""
    command = command.replace("curl ", "curl -sS --max-time 15 ", 1).replace(
        "localhost:8080", f"localhost:{service.port}"
    )
    command = command.replace("74292b21-0fbb-4f1d-a18f-fa80f947fa5d", uid)
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@needs_curl
@pytest.mark.parametrize("is_killed", [False, True], ids=["plain", "kill -9 after each step"])
def test_the_five_steps(new_service: NewService, log_environment: Mapping[str, str], is_killed: bool) -> None:
    """Create, get, search, change and delete answer the profile, also with kill -9 and a restart between any two."""
    service = new_service(**log_environment).start()

    def between() -> None:
        if is_killed:
            service.kill()
            service.start()

    created = curl(service, CREATE)
    match = re.fullmatch(
        r'\{"uid":"([0-9a-f-]{36})","username":"bob","email":"bob1@mail\.com","version":1,'
        r'"created_at":"([^"]+)","updated_at":"\2"\}',
        created,
    )
    assert match, created
    uid = match[1]
    between()
    assert curl(service, GET, uid) == created
    between()
    assert curl(service, SEARCH) == created
    between()
    changed = curl(service, CHANGE, uid)
    assert f'"uid":"{uid}","username":"bob","email":"bob2@mail.com","version":2,' in changed
    between()
    assert curl(service, SEARCH_AGAIN) == changed
    assert "profile-not-found" in curl(service, SEARCH)
    between()
    assert curl(service, DELETE, uid) == ""
    between()
    assert "profile-not-found" in curl(service, GET, uid)
    assert "profile-not-found" in curl(service, SEARCH_AGAIN)
