-- Times are microseconds since the epoch, JSON is text.

CREATE TABLE assistly_store (
    kind TEXT NOT NULL PRIMARY KEY,
    payload TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE assistly_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event_type TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX idx_events_type_created ON assistly_events (event_type, created_at);
