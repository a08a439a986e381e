"""A log as a service writes it in a month, for the rows of the console: written straight into the tables.

A million events in 50,000 scopes, a tenth of them in 100 busy scopes. Every tenth event of a scope is an action, which covers
those before it. 10,000 events are dead letters with errors of six kinds, some are held or pending, and among the newest are
payloads of a megabyte.
"""

import asyncpg

SCOPES = 49_999  # a number that shares no factor with the tenth that is busy
BUSY = 100
DEAD = 10_000
ID = "'0192e4a0-7b1c-7000-8000-' || lpad(to_hex({n}), 12, '0')"


# `n` is the place in the log and the `seq`; `turn` numbers the events of a scope; `step` is the distance to the one before.
EVENTS = f"""
INSERT INTO events (seq, id, type, source, scope, timestamp, payload, headers, recorded_at)
OVERRIDING SYSTEM VALUE
SELECT n, {ID.format(n="n")},
       CASE WHEN acts AND turn % 100 = 19 THEN 'agent.dropped' WHEN acts THEN 'agent.action'
            ELSE (ARRAY['error.reported', 'http.request', 'ws.message'])[1 + n % 3] END,
       CASE WHEN acts THEN 'agent:agent' ELSE 'bench' END, scope, t,
       CASE WHEN acts THEN jsonb_build_object(
                'version', 1, 'trigger', 'errors', 'reason', 'It was a test.', 'notify', '[]'::jsonb,
                'output', jsonb_build_object('severity', 'high', 'text', repeat('Service ' || n || ' refuses. ', 12)),
                'covers', (SELECT jsonb_agg({ID.format(n="n - step * k")} ORDER BY k DESC)
                             FROM generate_series(1, 9) AS k
                            WHERE n - step * k > 0 AND ((n - step * k) % 10 = 0) = (n % 10 = 0)))
            ELSE jsonb_build_object(
                'version', 1, 'service', 'billing', 'method', 'POST', 'path', '/orders/' || n, 'headers', '{{}}'::jsonb,
                'connection_id', n::text, 'content', 'hello', 'message',
                CASE WHEN n > $1 - 10000 AND n % 500 = 252
                     THEN (SELECT string_agg(md5(n::text || k), ' ') FROM generate_series(1, 30000) AS k)
                     ELSE 'connection refused by ' || md5(n::text) || repeat(' while it paid order ' || n, 6) END)
       END,
       jsonb_build_object('depth', 0, 'trace_id', {ID.format(n="n")}, 'correlation_id', 'order-' || n % 1000), t
  FROM (SELECT n, n % 10 = 0 AS busy FROM generate_series(1, $1::int) AS n) AS numbers,
       LATERAL (SELECT CASE WHEN busy THEN 10 * {BUSY} ELSE {SCOPES} END AS step) AS steps,
       LATERAL (SELECT n / step AS turn, n % step AS place) AS places,
       LATERAL (SELECT (turn + place) % 10 = 9 AS acts,
                       CASE WHEN busy THEN 'busy:' || place / 10 ELSE 'user:' || place || '@example.com' END AS scope,
                       now() - interval '30 days' * ($1::int - n) / $1::int AS t) AS rest
"""

SCOPE_ROWS = """
INSERT INTO scopes (subscriber, scope, version, last_action_at, wake_at)
SELECT 'agent', scope, count(*), max(recorded_at), CASE WHEN max(seq) % 50 = 0 THEN now() + interval '1 hour' END
  FROM events WHERE type IN ('agent.action', 'agent.dropped') GROUP BY scope
    ON CONFLICT DO NOTHING
"""

DEAD_LETTERS = """
INSERT INTO deliveries (subscriber, seq, scope, attempts, fence, dead_at, error, traceback)
SELECT 'agent', seq, scope, 5, seq, recorded_at + interval '1 minute',
       (ARRAY['TimeoutError: the model "gpt-5-mini" did not answer in ' || seq % 97 || ' s (request ' || md5(id) || ')',
              'ValueError: order ' || seq || ' has no customer: ''' || scope || ''' is unknown',
              'worker died: the process ended, or hung, while it handled this event',
              'ModelHTTPError: status_code: 500, body: {"id": "' || md5(id) || '", "message": "overloaded"}',
              'KeyError: ''customer-' || seq || '''',
              'ReadTimeout: POST https://api.example.com/v1/orders/' || seq || '/items?page=' || seq % 7])[1 + seq % 6]
       || repeat(' while it looked at the order', 4),
       repeat('  File "/srv/agent/triggers.py", line 12, in decide' || chr(10), 40)
  FROM (SELECT * FROM events WHERE type NOT LIKE 'agent.%' AND seq % 10 <> 5 ORDER BY seq DESC OFFSET 20000 LIMIT $1::int) AS e
"""

HELD = """
INSERT INTO deliveries (subscriber, seq, scope, attempts, fence, held_at)
SELECT 'agent', seq, scope, 1, seq, recorded_at
  FROM (SELECT * FROM events WHERE type NOT LIKE 'agent.%' AND seq % 10 = 5 OR scope = 'busy:7' AND type NOT LIKE 'agent.%'
         ORDER BY seq DESC LIMIT $1::int) AS e
    ON CONFLICT DO NOTHING
"""

PENDING = """
INSERT INTO deliveries (subscriber, seq, scope)
SELECT 'agent', seq, scope FROM events WHERE type NOT LIKE 'agent.%' ORDER BY seq DESC LIMIT $1::int
    ON CONFLICT DO NOTHING
"""

UNITS = """
INSERT INTO journal (action_id, key, nth, scope, entry, asked, recorded_at)
SELECT id, md5(id || k), 0, scope,
       convert_to(json_build_object(
           'kind', 'response', 'model_name', 'gpt-4.1-mini', 'provider_name', 'openai',
           'timestamp', recorded_at, 'usage', json_build_object('input_tokens', 1200, 'output_tokens', 80),
           'parts', json_build_array(json_build_object('part_kind', 'text', 'content', repeat('It refuses. ', 60))))::text, 'UTF8'),
       convert_to(json_build_array(json_build_object(
           'kind', 'request', 'instructions', repeat('Judge the errors. ', 20),
           'parts', json_build_array(json_build_object('part_kind', 'user-prompt', 'content', repeat('5 errors. ', 200)))))::text, 'UTF8'),
       recorded_at
  FROM (SELECT * FROM events WHERE type = 'agent.action' ORDER BY seq DESC LIMIT 2000) AS e, generate_series(1, 5) AS k
"""

ID_OF_BUSY_ACTION = """
SELECT id FROM events WHERE type = 'agent.action' AND scope = 'busy:3' ORDER BY recorded_at DESC LIMIT 1
"""


async def fill(url: str, events: int) -> None:
    """Write a log of so many events, with the rest in proportion, and its statistics."""
    connection = await asyncpg.connect(url)
    await connection.execute(EVENTS.replace("$1", str(events)))
    await connection.execute(
        "SELECT setval(pg_get_serial_sequence('events', 'seq'), (SELECT max(seq) FROM events))"
    )
    await connection.execute(SCOPE_ROWS)
    share = events / 1_000_000
    for statement, count in ((DEAD_LETTERS, DEAD), (HELD, 20_000), (PENDING, 2_000)):
        await connection.execute(statement, max(1, round(count * share)))
    await connection.execute(UNITS)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()
