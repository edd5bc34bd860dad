"""A webhook service: it takes commands from a chat, has some of them approved, and schedules posts.

A command is signed and accepted once; when it is sent again, it gets the first answer. All that it stores is
stored in one transaction, so a crash leaves either all of it or nothing.

    pip install fastapi uvicorn
    WEBHOOK_SECRET=change-me uvicorn examples.webhook_service:app

    POST /commands         {"command": "post", "account": "bakery", "content": "Fresh bread!", "at": "…"}
    POST /approvals/{id}   {"decision": "approved", "by": "kim"}
    GET  /jobs/{id}
    GET  /health

A POST has these headers:

    Idempotency-Key   the sender's name for the command, the same however often it is sent
    X-Timestamp       seconds since 1970
    X-Nonce           16 to 64 random letters and digits, new each time it is sent
    X-Signature       `signature`, below

The storage is the one that the environment describes, by default data/assistly.db. Workers publish what
is due: assistly worker --publish mastodon=stdout --publish blog=stdout
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel

from assistly.storage import (
    Conflict,
    IdempotencyMismatch,
    InvalidValue,
    Job,
    NotFound,
    OutcomeUnknown,
    Storage,
    StorageError,
    StorageUnavailable,
    open_storage,
)

MIN_GAP = timedelta(minutes=30)
TOLERANCE = 300  # seconds; far less than RETENTION_NONCES_DAYS, so that no nonce is forgotten too soon
Answer = dict[str, Any]


@dataclass(frozen=True)
class Account:
    platform: str
    needs_approval: bool = False


ACCOUNTS = {"bakery": Account("mastodon"), "press office": Account("blog", needs_approval=True)}


class Post(BaseModel):
    command: Literal["post"]
    account: str
    content: str
    at: AwareDatetime | None = None


class Decision(BaseModel):
    decision: Literal["approved", "rejected"]
    by: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.secret = os.environ.get("WEBHOOK_SECRET")
    if not app.state.secret:
        raise SystemExit("WEBHOOK_SECRET is not set")
    with open_storage() as app.state.storage:
        yield


app = FastAPI(lifespan=lifespan)


def signature(secret: str, key: str, timestamp: str, nonce: str, path: str, body: bytes) -> str:
    """In hexadecimal. Headers hold no line breaks, so no part can be moved into the next one."""
    signed = f"{key}\n{timestamp}\n{nonce}\n{path}\n".encode() + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Delivery:
    """A request with a valid signature."""

    key: str
    nonce: str
    fingerprint: str


async def verified(request: Request) -> Delivery:
    names = ("idempotency-key", "x-timestamp", "x-nonce", "x-signature")
    key, timestamp, nonce, given = (request.headers.get(name, "") for name in names)
    body, path = await request.body(), request.url.path
    expected = signature(app.state.secret, key, timestamp, nonce, path, body)
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise HTTPException(401, "the signature is wrong")
    if not re.fullmatch("[0-9]{1,12}", timestamp) or abs(time.time() - int(timestamp)) > TOLERANCE:
        raise HTTPException(401, "the timestamp is too old or in the future")
    if not re.fullmatch("[A-Za-z0-9]{16,64}", nonce):
        raise HTTPException(401, "the nonce must be 16 to 64 letters and digits")
    return Delivery(key, nonce, hashlib.sha256(path.encode() + b"\n" + body).hexdigest())


Verified = Annotated[Delivery, Depends(verified)]
Opened = Annotated[Storage, Depends(lambda: app.state.storage)]


def once(storage: Storage, delivery: Delivery, command: Callable[[Storage], Answer]) -> Answer:
    """Run the command, or repeat its first answer. If it raises, nothing is stored, the nonce included."""
    with storage.transaction() as tx:
        if not tx.nonces.register(delivery.nonce):
            raise HTTPException(409, "the nonce was used before: to repeat the command, sign it anew")
        answer: Answer = tx.idempotency.run_once(
            delivery.key, lambda: command(tx), fingerprint=delivery.fingerprint
        )
        return answer


@app.post("/commands", status_code=202)
def take_command(post: Post, delivery: Verified, storage: Opened) -> Answer:
    return once(storage, delivery, lambda tx: ask_or_schedule(tx, post, delivery.key))


@app.post("/approvals/{id}")
def take_decision(id: str, decision: Decision, delivery: Verified, storage: Opened) -> Answer:
    return once(storage, delivery, lambda tx: decide(tx, id, decision))


@app.get("/jobs/{id}", response_model_include={"id", "status", "due_at", "remote_id", "dead_letter_reason"})
def show_job(id: int, storage: Opened) -> Job:
    if job := storage.queue.get(id):
        return job
    raise NotFound(f"there is no job {id}")


@app.get("/health")
def show_health(storage: Opened) -> Answer:
    return {"ping": storage.ping()}


def ask_or_schedule(tx: Storage, post: Post, key: str) -> Answer:
    account = ACCOUNTS.get(post.account)
    if account is None:
        raise NotFound(f"there is no account {post.account!r}")
    if not account.needs_approval:
        return {"job": schedule(tx, post, key).id}
    draft = {"post": post.model_dump(mode="json"), "key": key}
    return {"approval": tx.approvals.add(secrets.token_hex(8), draft).id}


def decide(tx: Storage, id: str, decision: Decision) -> Answer:
    draft = tx.approvals.decide(id, decision.decision, patch={"by": decision.by}).payload
    if decision.decision == "rejected":
        return {"job": None}
    return {"job": schedule(tx, Post.model_validate(draft["post"]), draft["key"]).id}


def schedule(tx: Storage, post: Post, key: str) -> Job:
    platform = ACCOUNTS[post.account].platform
    return tx.queue.schedule(platform, post.content, post.at, idempotency_key=key, min_gap=MIN_GAP)


STATUS: dict[type[StorageError], int] = {  # the first that fits
    IdempotencyMismatch: 422,
    InvalidValue: 422,
    NotFound: 404,
    Conflict: 409,  # the key is in progress, the approval decided, or another post too near
    StorageUnavailable: 503,  # nothing was stored
    OutcomeUnknown: 503,  # it may be stored, and under the same key it is safe to send it again
}


@app.exception_handler(StorageError)
async def answer_error(_: Request, error: StorageError) -> JSONResponse:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    if status == 500:
        raise error
    if status == 503:
        detail = "the storage does not answer: send it again under the same key, with another nonce"
        return JSONResponse({"detail": detail}, status, {"Retry-After": "2"})
    return JSONResponse({"detail": str(error)}, status)
