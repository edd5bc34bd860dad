"""The spans of transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode

from assistly.storage import forks
from assistly.storage.storage import Storage
from assistly.storage.transactions import Transaction

from .spans import Tracing, engine_of, harmless, kind_of, text_of


class TracedTransactions:
    """Wrappers of the methods of `Transaction`."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._spans: WeakKeyDictionary[Transaction[Any], Span] = WeakKeyDictionary()

    def begin(self, function: Callable[..., Storage]) -> Callable[..., Storage]:
        """`Transaction.begin`."""

        def begin(transaction: Transaction[Storage]) -> Storage:
            if transaction._began:
                return function(transaction)
            self._start(transaction)
            try:
                view = function(transaction)
            except BaseException as error:
                self._end(transaction, error)
                raise
            self._note(transaction, view)
            return view

        return begin

    def end(self, function: Callable[..., None]) -> Callable[..., None]:
        """`Transaction.end`."""

        def end(transaction: Transaction[Storage], error: BaseException | None) -> None:
            if transaction._generation != forks.generation():
                function(transaction, error)  # the span is the parent process's
                return
            try:
                function(transaction, error)
            except BaseException as raised:
                self._end(transaction, raised)
                raise
            self._end(transaction, error)

        return end

    @harmless
    def _start(self, transaction: Transaction[Storage]) -> None:
        opened_on = transaction.owner()
        if self._tracing.is_on and isinstance(opened_on, Storage):
            system, kind = engine_of(transaction.root)
            self._spans[transaction] = self._tracing.tracer.start_span(
                "assistly.transaction",
                self._tracing.around(opened_on._context),
                kind,
                {"db.system.name": system, "db.operation.name": "transaction"},
            )

    @harmless
    def _note(self, transaction: Transaction[Storage], view: Storage) -> None:
        span = self._spans.get(transaction)
        if span is not None:
            self._tracing.note_transaction(view._context, span, trace.get_current_span())

    @harmless
    def _end(self, transaction: Transaction[Storage], error: BaseException | None) -> None:
        span = self._spans.pop(transaction, None)
        if span is None:
            return
        try:
            span.set_attribute("assistly.outcome", "committed" if error is None else "undone")
            if error is not None:
                span.set_attribute("error.type", kind_of(error))
                span.set_status(StatusCode.ERROR, text_of(error))
        finally:
            span.end()
