-- A history as some months leave it: $1 executions over 90 days, ten log lines each.
--
-- Half of them belong to the organization $2, the others to a hundred others, few of which have many. There are 200 workflows,
-- the first ones by far the most frequent, and one with ten executions in all; of the organization, the person $3 has
-- started a twentieth. 93 of 100 succeeded, and twenty in all ran into their time limit. The last ones wait, for tomorrow, so
-- that no worker takes them.
INSERT INTO executions (id, organization_id, workflow_name, parameters, result, result_type, executed_by, executed_by_name,
    executed_by_email, status, priority, queue_rank, due_at, timeout_seconds, attempt, created_at, started_at, completed_at,
    duration_ms, error_message, error_type)
SELECT (left(time, 8) || '-' || substr(time, 9) || '-7' || left(tail, 3) || '-8' || substr(tail, 4, 3) || '-' || right(tail, 12))::uuid,
    CASE WHEN is_rare OR a % 2 = 0 THEN $2 ELSE (SELECT o.ids[1 + floor(100 * power((a % 10000) / 10000.0, 2.5))::int]
        FROM (SELECT ARRAY(SELECT id FROM organizations WHERE name LIKE 'Generated %' ORDER BY name) AS ids) AS o) END,
    CASE WHEN is_rare THEN 'rare' ELSE 'workflow ' || floor(200 * power((b % 10000) / 10000.0, 3)) END,
    '{"site": "north", "amount": 42, "note": "generated"}',
    CASE WHEN status IN ('Success', 'CompletedWithErrors') THEN json_build_object('rows', n, 'text', tail) END,
    CASE WHEN status IN ('Success', 'CompletedWithErrors') THEN 'json' END,
    CASE WHEN a % 2 = 0 AND d % 20 = 0 THEN $3 ELSE lpad(to_hex(1000 + d % 5000), 32, '0')::uuid END,
    'Somebody', 'somebody@example.com', status, 5, now(), now() + interval '1 day', 1800, CASE WHEN status = 'Pending' THEN 0 ELSE 1 END,
    created, CASE WHEN status <> 'Pending' THEN created + interval '1 second' END,
    CASE WHEN status <> 'Pending' THEN created + interval '3 seconds' END, CASE WHEN status <> 'Pending' THEN 2000 END,
    CASE WHEN status IN ('Failed', 'Timeout') THEN 'it went wrong' END,
    CASE status WHEN 'Failed' THEN 'ValueError' WHEN 'Timeout' THEN 'TimeoutError' END
FROM (
    SELECT n, a, b, d, created, n % ($1::bigint / 10) = 7 AS is_rare, md5(n::text) AS tail,
        lpad(to_hex((extract(EPOCH FROM created) * 1000)::bigint), 12, '0') AS time,
        CASE WHEN n > $1::bigint - $1::bigint / 500 THEN 'Pending'
            WHEN n % ($1::bigint / 20) = 11 THEN 'Timeout'
            WHEN c % 1000 < 930 THEN 'Success'
            WHEN c % 1000 < 980 THEN 'Failed'
            WHEN c % 1000 < 990 THEN 'CompletedWithErrors'
            ELSE 'Cancelled' END AS status
    FROM (
        SELECT n, now() - ($1::bigint - n) * interval '90 days' / $1::bigint AS created,
            abs(hashint8extended(n, 1) % 1000000) AS a, abs(hashint8extended(n, 2) % 1000000) AS b,
            abs(hashint8extended(n, 3) % 1000000) AS c, abs(hashint8extended(n, 4) % 1000000) AS d
        FROM generate_series(1, $1::bigint) AS n
    ) AS numbers
) AS drawn
