"""The spans of transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode

from assistly.storage import forks
from assistly.storage.transactions import Transaction
from assistly.worker.processing import error_text

from .spans import LONGEST_DESCRIPTION, Tracing, attach, engine_of, harmless, kind_of


class TracedTransactions:
    """Wrappers of the methods of `Transaction`: each is a span, current where `mark` says that it is open."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._transactions: WeakKeyDictionary[Transaction[Any], tuple[Span, otel.Context]] = (
            WeakKeyDictionary()
        )

    def begin(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`Transaction.begin`."""

        def begin(transaction: Transaction[Any]) -> Any:
            if transaction._began:
                return function(transaction)
            self._begin_transaction(transaction)
            try:
                return function(transaction)
            except BaseException as error:
                self._end_transaction(transaction, error)
                raise

        return begin

    def mark(self, function: Callable[..., None]) -> Callable[..., None]:
        """`Transaction.mark`, on the thread or task that goes on with the block."""

        def mark(transaction: Transaction[Any]) -> None:
            function(transaction)
            held = self._transactions.get(transaction)
            if held is not None:
                attach(trace.set_span_in_context(held[0]))

        return mark

    def unmark(self, function: Callable[..., None]) -> Callable[..., None]:
        """`Transaction.unmark`, on the thread or task that leaves the block, perhaps another one."""

        def unmark(transaction: Transaction[Any]) -> None:
            function(transaction)
            held = self._transactions.pop(transaction, None)
            if held is not None and trace.get_current_span() is held[0]:
                attach(held[1])

        return unmark

    def end(self, function: Callable[..., None]) -> Callable[..., None]:
        """`Transaction.end`."""

        def end(transaction: Transaction[Any], error: BaseException | None) -> None:
            if transaction._generation != forks.generation():
                function(transaction, error)  # the span is the parent process's
                return
            try:
                function(transaction, error)
            except BaseException as raised:
                self._end_transaction(transaction, raised)
                raise
            self._end_transaction(transaction, error)

        return end

    @harmless
    def _begin_transaction(self, transaction: Transaction[Any]) -> None:
        if self._tracing.is_on:
            system, kind = engine_of(transaction.root)
            attributes = {"db.system.name": system, "db.operation.name": "transaction"}
            span = self._tracing.tracer.start_span("assistly.transaction", kind=kind, attributes=attributes)
            self._transactions[transaction] = (span, otel.get_current())

    @harmless
    def _end_transaction(self, transaction: Transaction[Any], error: BaseException | None) -> None:
        held = self._transactions.get(transaction)
        if held is None or not held[0].is_recording():
            return
        span = held[0]
        span.set_attribute("assistly.outcome", "committed" if error is None else "undone")
        if error is not None:
            span.set_attribute("error.type", kind_of(error))
            span.set_status(StatusCode.ERROR, error_text(error)[:LONGEST_DESCRIPTION])
        span.end()
