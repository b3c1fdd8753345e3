"""Refusals: what an object store's failure means, and what the operator can do."""

from __future__ import annotations

import re

import msgspec

from ringlight.core.errors import MediaError

STATUS = re.compile(r"status code: (\d{3})")
NO_CREDENTIALS = (  # what is asked of a machine in a cloud where nothing is set, and it does not say
    "/latest/api/token",
    "/latest/meta-data",
    "169.254.170.2",
    "/computeMetadata/",
    "/metadata/identity",
)
NO_PLACE = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
PASSING = (408, 409, 425, 429)  # of the answers that blame the asker
MOST_CHARACTERS = 400


class StoreRefusal(msgspec.Struct, frozen=True):
    """Reason why the store refused: `told` to whoever asks, `detail` for the operator.

    `is_lasting`: until people change something, as the `remedy` says.
    """

    told: str
    detail: str
    is_lasting: bool
    remedy: str

    @classmethod
    def of(cls, error: Exception) -> StoreRefusal:
        """Reason of a failure of obstore. It tells most of it by its text alone."""
        detail = one_line(error)
        match = STATUS.search(detail)
        status = int(match[1]) if match else 0
        if any(sign in detail for sign in NO_CREDENTIALS):
            remedy = "set them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            return cls("no credentials for the object store were found", detail, True, remedy)
        if any(sign in detail for sign in NO_PLACE):
            return cls("there is no such bucket", detail, True, "make it, or name another")
        if status in (401, 403):
            remedy = (
                "allow these credentials to list the bucket, and to read, write and delete objects under the prefix"
            )
            return cls("the object store refuses the server's credentials", detail, True, remedy)
        if 300 <= status < 400 or "configured region" in detail:
            remedy = "set the region of the bucket, such as AWS_REGION=eu-central-1"
            return cls("the bucket is elsewhere", detail, True, remedy)
        if 400 <= status < 500 and status not in PASSING:
            remedy = "see what it says, and the variables of credentials, region and endpoint"
            return cls("the object store refuses what it is asked", detail, True, remedy)
        told = f"the object store answers with {status}" if status else "the object store cannot be reached"
        return cls(told, detail, False, "wait, or look at its endpoint and at the network")

    def error(self) -> MediaError:
        """Error to raise, with what clients may be told."""
        return MediaError(self.told, self.detail)


def one_line(error: Exception) -> str:
    """Message of obstore, without what it says for its developers."""
    text = " ".join(str(error).partition("\n\nDebug source")[0].split())
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
