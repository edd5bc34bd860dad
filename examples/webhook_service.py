"""A webhook service: it takes commands from a chat, has some of them approved, and schedules posts.

A command is signed and accepted once; when it is sent again, it gets the first response. Everything that it
stores is stored in one transaction, so a crash leaves either all of it or nothing.

Run it in the root of the repository. Make a secret once, keep it, and give it to those who send commands.
It is read from the environment alone, not from `.env`:

    pip install -c constraints.txt ".[cli,fastapi]" uvicorn httpx
    export WEBHOOK_SECRET="whsec_$(openssl rand -base64 32)"; echo "$WEBHOOK_SECRET"
    uvicorn examples.webhook_service:app

    POST /commands    {"command": "post", "account": "bakery", "content": "Fresh bread!", "at": "…"}
    POST /approvals   {"approval": "…", "decision": "approved", "by": "kim"}
    GET  /jobs/{id}
    GET  /health

A POST is signed by the scheme of https://www.standardwebhooks.com, which has libraries for most languages.
Its headers are:

    webhook-id          the sender's name for the command, the same however often it is sent
    webhook-timestamp   seconds since 1970
    webhook-signature   HMAC-SHA256 of both and the body

The path is not signed, so everything that must be authenticated is in the body. In Python, with the secret
in the environment:

    import os, time, httpx
    from assistly.worker.signatures import WebhookSecrets

    body = b'{"command": "post", "account": "bakery", "content": "Fresh bread!"}'
    headers = WebhookSecrets(os.environ["WEBHOOK_SECRET"]).headers("command-1", int(time.time()), body)
    headers["Content-Type"] = "application/json"
    print(httpx.post("http://127.0.0.1:8000/commands", content=body, headers=headers).text)

The storage is the one that the environment describes, by default data/assistly.db. Workers publish what
is due: assistly worker --publish mastodon=stdout --publish blog=stdout
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel

from assistly.storage import (
    ConfigurationError,
    Conflict,
    IdempotencyMismatch,
    InvalidValue,
    Job,
    Json,
    NotFound,
    OutcomeUnknown,
    Storage,
    StorageError,
    StorageUnavailable,
    open_storage,
)
from assistly.worker.signatures import WebhookSecrets
from assistly.worker.webhooks import WebhookError, verify

MIN_GAP = timedelta(minutes=30)
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
    approval: str
    decision: Literal["approved", "rejected"]
    by: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    try:
        app.state.secrets = WebhookSecrets(os.environ.get("WEBHOOK_SECRET", ""))
    except ConfigurationError as error:
        raise SystemExit(f"WEBHOOK_SECRET is not set, or wrong: {error}") from None
    if not app.state.secrets.standard_keys:
        raise SystemExit("WEBHOOK_SECRET must begin with whsec_")
    with open_storage() as app.state.storage:
        yield


app = FastAPI(lifespan=lifespan)


@dataclass(frozen=True)
class Command:
    """What was sent, with a valid signature."""

    key: str
    fingerprint: str


async def verified(request: Request) -> Command:
    body = await request.body()
    try:
        delivery = verify(body, request.headers, app.state.secrets)
    except WebhookError as error:
        raise HTTPException(401, str(error)) from None
    if delivery.scheme != "standard":  # the other one has no id for these commands
        raise HTTPException(401, "the command must have a webhook-signature")
    return Command(delivery.id, hashlib.sha256(request.url.path.encode() + b"\n" + body).hexdigest())


Verified = Annotated[Command, Depends(verified)]
Opened = Annotated[Storage, Depends(lambda: app.state.storage)]


def once(storage: Storage, sent: Command, run: Callable[[Storage], Answer]) -> Answer:
    """Run the command, or repeat its first answer. If it raises, nothing is stored."""
    with storage.transaction() as tx:
        answer: Answer = tx.idempotency.run_once(sent.key, lambda: run(tx), fingerprint=sent.fingerprint)
        return answer


@app.post("/commands", status_code=202)
def take_command(post: Post, sent: Verified, storage: Opened) -> Answer:
    return once(storage, sent, lambda tx: ask_or_schedule(tx, post, sent.key))


@app.post("/approvals")
def take_decision(decision: Decision, sent: Verified, storage: Opened) -> Answer:
    return once(storage, sent, lambda tx: decide(tx, decision))


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
    draft: dict[str, Json] = {"post": post.model_dump(mode="json"), "key": key}
    return {"approval": tx.approvals.add(secrets.token_hex(8), draft).id}


def decide(tx: Storage, decision: Decision) -> Answer:
    patch = {"by": decision.by}
    draft = tx.approvals.decide(decision.approval, decision.decision, patch=patch).payload
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
        detail = "the storage does not answer: send it again under the same id"
        return JSONResponse({"detail": detail}, status, {"Retry-After": "2"})
    return JSONResponse({"detail": str(error)}, status)
