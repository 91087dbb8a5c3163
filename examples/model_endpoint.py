"""A model endpoint on this machine for the other examples: no key, no network, no model, and it misbehaves.

python model_endpoint.py          prints the two lines to paste into the terminals of the worker and of the script

It speaks the OpenAI API and answers with the first sentence of the text. What goes wrong depends on the name of the
request: most names meet a failure or two before they get their answer.
"""

from __future__ import annotations

import zlib
from typing import ClassVar

from queuekit.demo.endpoint import Endpoint
from queuekit.demo.plan import BROKEN, OVERLOADED, REFUSED, SILENT, Failure, Plan, limited


class Moody(Plan):
    """A plan for requests of any name."""

    LUCK: ClassVar[tuple[tuple[Failure, ...], ...]] = (
        *(() for _ in range(7)),
        (limited(1),),
        (OVERLOADED,),
        (BROKEN,),
        (limited(1), OVERLOADED),
    )

    def __init__(self) -> None:
        super().__init__(seed=0, documents=())

    def failures(self, document: str) -> tuple[Failure, ...]:
        if "refused" in document:
            return (REFUSED,)  # the key is not accepted, now or later
        if "silent" in document:
            return (SILENT,) * 1000  # it takes the request and never answers
        return self.LUCK[zlib.crc32(document.encode()) % len(self.LUCK)]


def main() -> None:
    with Endpoint(Moody()) as endpoint:
        try:
            print(f"export OPENAI_BASE_URL={endpoint.url('examples')} OPENAI_API_KEY=none")
            print("export SCALE=0.05   # waits of 1.5 s where the policy says 30 s", flush=True)
            endpoint.closing.wait()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
