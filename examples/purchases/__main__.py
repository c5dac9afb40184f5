"""`python -m examples.purchases [achats|demandes]`: which version, `PURCHASES_VERSION` says it, too."""

import os
import sys

from examples.purchases.service import partitions, version_from_env, wait_ms_from_env
from examples.purchases.topology import PURCHASES
from examples.serving import refusing, serve

if __name__ == "__main__":
    with refusing("purchases"):
        if sys.argv[1:]:
            os.environ["PURCHASES_VERSION"] = sys.argv[1]
        version = version_from_env(os.environ)
        wait_ms_from_env(os.environ)  # what is wrong is said before anything else begins
        name = "purchases" if version is PURCHASES else "requests"
        factory = "examples.purchases.service:create_app()"
        serve(factory, name=name, port=8002 if version is PURCHASES else 8003, topics=partitions(version))
