-- Everything the server says to SQLite: first the tables, then every statement.
--
-- A statement begins at its "-- name:" line, has one line on what it is for, and is run by a method of chatbot/storage/.
-- Times are whole milliseconds since 1970 (UTC). Ids are UUIDs as text. What every turn needs takes its values by place.

-- name: schema
CREATE TABLE IF NOT EXISTS sessions (
    session_id    TEXT    NOT NULL PRIMARY KEY,
    created_at    INTEGER NOT NULL,
    last_accessed INTEGER NOT NULL,                 -- marked by requests; a stored turn tells it too: see used_sessions
    current       INTEGER,                          -- the turn that the conversation is at; NULL: before the first
    deleted       INTEGER NOT NULL DEFAULT 0,       -- 1: gone for everybody, and its rows are being removed
    metadata      TEXT    NOT NULL CHECK (json_type(metadata) = 'object')
) STRICT;

-- The sweep reads the oldest first and nothing else.
CREATE INDEX IF NOT EXISTS sessions_by_access ON sessions (last_accessed);

-- System prompts, the first messages of their sessions. In the row of its session a prompt would be written again each
-- time that the session is marked.
CREATE TABLE IF NOT EXISTS prompts (
    session_id TEXT    NOT NULL PRIMARY KEY REFERENCES sessions (session_id) ON DELETE CASCADE,
    message_id TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    content    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- What was said and what was answered are one row: a turn is whole or absent. The long texts stand last, for what stands
-- after a long one is long to reach. AUTOINCREMENT: the number of a turn that was deleted is never given again.
CREATE TABLE IF NOT EXISTS turns (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,  -- children have larger numbers than what they follow
    session_id      TEXT    NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    parent          INTEGER,                        -- the turn it follows; no foreign key: SQLite's cascade fails on long chains
    turn_id         TEXT    NOT NULL UNIQUE,        -- the reply's id; the messages that were said have its last three digits counted from 001
    asked_at        INTEGER NOT NULL,
    replied_at      INTEGER NOT NULL,
    finish_reason   TEXT,                           -- NULL: nothing was answered, a client only added messages
    calls           INTEGER NOT NULL DEFAULT 0,     -- how many tool calls the reply made
    context_start   INTEGER,                        -- the turn at which the context began that it was answered from; NULL: itself
    context_key     TEXT,                           -- what stood before the turns, as a short hash
    model           TEXT,
    first_token_ms  INTEGER,                        -- from the question to the reply's first characters
    token_usage     TEXT    CHECK (json_type(token_usage) = 'object'),  -- as the LLM reported it, if it did
    idempotency_key TEXT,                           -- a hash of its scope and it; goes with the turn, so a rewound one frees its key
    request_hash    TEXT    CHECK ((request_hash IS NULL) = (idempotency_key IS NULL)),  -- what the key was first used for
    response_id     TEXT,                           -- what OpenAI's door calls it, and
    response        TEXT,                           -- the settings it was asked with there, as JSON
    input           TEXT    NOT NULL,               -- chat-completions messages as they are sent, one a line; null: deleted alone
    output          TEXT,                           -- the assistant's message as JSON: role, content, tool_calls
    reasoning       TEXT,
    layout          TEXT,                           -- JSON: [[kind, characters], …] as they came; NULL: text alone
    chunk_ends      BLOB,                           -- how many characters each of the LLM's chunks had, as varints
    CHECK ((output IS NULL) = (finish_reason IS NULL))
) STRICT;

-- Serves versions (what follows the same turn), subtrees, and the cascade from sessions.
CREATE INDEX IF NOT EXISTS turns_by_parent ON turns (session_id, parent);

-- One reply a key and one turn a response; most turns have neither.
CREATE UNIQUE INDEX IF NOT EXISTS turns_by_key ON turns (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS turns_by_response ON turns (response_id) WHERE response_id IS NOT NULL;

-- Turns that are gone with all that follows from them, and are being removed, leaves first.
CREATE TABLE IF NOT EXISTS removals (
    root       INTEGER NOT NULL PRIMARY KEY,
    session_id TEXT    NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE
) STRICT;

CREATE INDEX IF NOT EXISTS removals_by_session ON removals (session_id);

-- Responses that were accepted before they ran. A row goes when its turn is stored; one that failed stays for an hour.
CREATE TABLE IF NOT EXISTS background (
    response_id TEXT    NOT NULL PRIMARY KEY,
    session_id  TEXT    NOT NULL REFERENCES sessions (session_id) ON DELETE CASCADE,
    created_at  INTEGER NOT NULL,
    response    TEXT    NOT NULL,                   -- as in turns
    error       TEXT                                -- JSON: what it failed of; NULL: it runs
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS background_by_session ON background (session_id);

-- What only this database knows, random, made once: the key of the hashes by which LLM servers tell conversations apart.
CREATE TABLE IF NOT EXISTS secrets (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- The history for a plain SELECT: a row for each message of each branch.
CREATE VIEW IF NOT EXISTS messages AS
SELECT message_id, session_id, 'system' AS role, content, created_at, NULL AS token_usage FROM prompts
UNION ALL
SELECT substr(turn_id, 1, 33) || printf('%03x', said.key + 1), session_id, said.value ->> 'role',
       said.value ->> 'content', asked_at, NULL
FROM turns, json_each('[' || replace(input, char(10), ',') || ']') AS said WHERE said.type = 'object'
UNION ALL
SELECT turn_id, session_id, 'assistant', output ->> 'content', replied_at, token_usage
FROM turns WHERE output IS NOT NULL;
