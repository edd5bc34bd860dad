-- Each name that was ever a lock keeps its row, for the fence: as smallint, the numbers end at 32767.
ALTER TABLE assistly_worker_lock ALTER COLUMN id TYPE bigint;
