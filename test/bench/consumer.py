"""What a user would write instead of cdp: Kafka to typed events, with de-duplication and a profile row per person.

usage: consumer.py BROKER TOPIC CONNINFO TOTAL

Batches of confluent-kafka, psycopg's COPY into a temporary table, then in one
transaction: events that are new by message id, the last traits and counters of
each person, and the offsets.  No identity resolution: a person is the user id,
else the anonymous id.  Ends when TOTAL records have been consumed.
"""
import collections
import json
import sys

import confluent_kafka
import psycopg

BATCH = 10_000

TABLES = '''
CREATE TABLE consumer_offset (partition int PRIMARY KEY, position bigint NOT NULL);
CREATE TABLE consumer_seen (message_id text PRIMARY KEY);
CREATE TABLE consumer_event (message_id text NOT NULL, type text NOT NULL, name text, occurred_at timestamptz NOT NULL,
  received_at timestamptz, person text NOT NULL, user_id text, anonymous_id text, properties jsonb, traits jsonb,
  context jsonb, partition int, kafka_offset bigint) PARTITION BY RANGE (occurred_at);
CREATE INDEX ON consumer_event (person, occurred_at);
CREATE INDEX ON consumer_event (occurred_at);
CREATE TABLE consumer_profile (person text PRIMARY KEY, traits jsonb NOT NULL, events bigint NOT NULL,
  first_seen timestamptz NOT NULL, last_seen timestamptz NOT NULL) WITH (fillfactor = 80);
CREATE TEMP TABLE incoming (LIKE consumer_event) ON COMMIT DELETE ROWS;
'''
PARTITIONS = ''.join(f"CREATE TABLE consumer_event_{m:02} PARTITION OF consumer_event FOR VALUES FROM ('2026-{m:02}-01') TO ('2026-{m + 1:02}-01');"
                     for m in range(2, 8))
COLUMNS = 'message_id, type, name, occurred_at, received_at, person, user_id, anonymous_id, properties, traits, context, partition, kafka_offset'
NEW = f'''
WITH fresh AS (
  INSERT INTO consumer_seen SELECT message_id FROM incoming ORDER BY 1 ON CONFLICT DO NOTHING RETURNING message_id)
INSERT INTO consumer_event SELECT {COLUMNS} FROM (
  SELECT DISTINCT ON (message_id) {COLUMNS} FROM incoming JOIN fresh USING (message_id)) one
RETURNING person, occurred_at, traits'''
PROFILE = '''
INSERT INTO consumer_profile AS p
SELECT * FROM unnest(%s::text[], %s::jsonb[], %s::bigint[], %s::timestamptz[], %s::timestamptz[])
ON CONFLICT (person) DO UPDATE SET traits = CASE WHEN excluded.last_seen >= p.last_seen THEN p.traits || excluded.traits
  ELSE excluded.traits || p.traits END, events = p.events + excluded.events,
  first_seen = least(p.first_seen, excluded.first_seen), last_seen = greatest(p.last_seen, excluded.last_seen)'''


def row_of(message):
    """One record as a row of the temporary table."""
    body = json.loads(message.value())
    dumps = json.dumps
    return (body['messageId'], body['type'], body.get('event'), body['originalTimestamp'], body.get('receivedAt'),
            body.get('userId') or body['anonymousId'], body.get('userId'), body.get('anonymousId'),
            dumps(body['properties']) if 'properties' in body else None,
            dumps(body['traits']) if 'traits' in body else None,
            dumps(body['context']) if 'context' in body else None, message.partition(), message.offset())


def fold(rows):
    """What a batch changes per person, in order of the persons."""
    people = {}
    for person, at, traits in sorted(rows, key=lambda r: (r[0], r[1])):
        known = people.setdefault(person, [{}, 0, at, at])
        known[0].update(traits or {})
        known[1] += 1
        known[3] = at
    names = list(people)
    return (names, [json.dumps(people[n][0]) for n in names], *([people[n][k] for n in names] for k in (1, 2, 3)))


def apply(connection, messages):
    """One batch, one transaction."""
    positions = collections.Counter()
    with connection.transaction(), connection.cursor() as cursor:
        with cursor.copy(f'COPY incoming ({COLUMNS}) FROM STDIN') as copy:
            for message in messages:
                copy.write_row(row_of(message))
                positions[message.partition()] = max(positions[message.partition()], message.offset() + 1)
        people = fold(cursor.execute(NEW).fetchall())
        cursor.execute(PROFILE, people)
        cursor.execute('INSERT INTO consumer_offset SELECT * FROM unnest(%s::int[], %s::bigint[]) '
                       'ON CONFLICT (partition) DO UPDATE SET position = excluded.position',
                       (list(positions), list(positions.values())))


def main(broker, topic, conninfo, total):
    """Consume until everything is there."""
    connection = psycopg.connect(conninfo, autocommit=True)
    connection.execute('SET synchronous_commit = off')
    connection.execute(TABLES + PARTITIONS)
    consumer = confluent_kafka.Consumer({'bootstrap.servers': broker, 'group.id': 'by-hand', 'enable.auto.commit': False,
                                         'isolation.level': 'read_committed', 'queued.max.messages.kbytes': 32768})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([confluent_kafka.TopicPartition(topic, p, 0) for p in partitions])
    done = 0
    while done < int(total):
        messages = consumer.consume(BATCH, 0.2)
        if messages:
            apply(connection, messages)
            done += len(messages)
    consumer.close()


if __name__ == '__main__':
    main(*sys.argv[1:])
