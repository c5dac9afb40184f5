"""Makes the expected files again: compiles the driver in Java and runs it on Kafka Streams' jars.

Run as `python -m tests.golden.make [PATTERN]`. Needs a JDK of 17 or later on the path, and the package `jgo`, which
fetches the jars once into the user's cache. Never part of a test run: the tests read what this wrote.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.golden.format import CASES, EXPECTED, HERE, KAFKA_STREAMS_VERSION, driver_sha256, driver_sources
from tests.support.broker import cache_directory, locked

KAFKA_STREAMS = f"org.apache.kafka:kafka-streams-test-utils:{KAFKA_STREAMS_VERSION}"


def class_path() -> str:
    """Return the class path of Kafka Streams and its test driver, fetching the jars once."""
    import jgo  # Only those who make the files again need it.

    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        environment = jgo.build(KAFKA_STREAMS, cache_dir=cache / "environments")
        return os.pathsep.join(str(jar) for jar in environment.all_jars)


def main(arguments: list[str]) -> int:
    pattern = arguments[0] if arguments else "*"
    if shutil.which("javac") is None:
        print("a JDK of 17 or later is needed: no javac on the path", file=sys.stderr)
        return 2
    jars = class_path()
    with tempfile.TemporaryDirectory(prefix="golden-") as directory:
        classes, state = Path(directory, "classes"), Path(directory, "state")
        files = [str(path) for path in driver_sources()]
        compiled = subprocess.run(["javac", "-Xlint:all,-classfile,-processing", "-d", classes, "-cp", jars, *files])
        if compiled.returncode:
            return compiled.returncode
        command = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{classes}{os.pathsep}{jars}"]
        run = subprocess.run([*command, "Golden", str(HERE), str(state), driver_sha256(), pattern], check=False)
    if not run.returncode and pattern == "*":
        names = {path.name for path in CASES.glob("*.json")} | {
            "driver.json",
            "partitions.json",
            "serdes.json",
        }
        for left in EXPECTED.glob("*.json"):
            if left.name not in names:
                left.unlink()
    return run.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
