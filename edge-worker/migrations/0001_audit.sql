-- The copy of the audit ledger in D1. The Durable Object has the ledger itself.
CREATE TABLE line (sequence INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, line TEXT NOT NULL);
CREATE INDEX line_trace ON line (json_extract(line, '$.record.traceId'));
CREATE INDEX line_request ON line (json_extract(line, '$.record.requestId'));
