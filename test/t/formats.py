"""CloudEvents in their three forms, and JSON through a mapping that changes, from the real broker."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import segment          # noqa: E402
import tap              # noqa: E402
import world as worlds  # noqa: E402

STRUCTURED = [('content-type', 'application/cloudevents+json; charset=UTF-8')]
BATCH = [('content-type', 'application/cloudevents-batch+json')]


def cloud(event_id, subject='cloud-1', **more):
    """An event without data, in structured form."""
    return {'specversion': '1.0', 'id': event_id, 'source': '/shop', 'type': 'com.example.ordered', 'subject': subject, **more}


def headers(event, *more):
    """The same in binary form."""
    return [('ce_' + name, value) for name, value in event.items()] + list(more)


def produce(world, topic, *records):
    """Records of (value, headers) or (value, headers, key), in their order."""
    producer = world.kafka.producer()
    for value, record_headers, *key in records:
        producer.send(topic, value, *key, headers=record_headers)
    producer.flush()


def stored(world, topic, columns):
    """Columns of the events of a topic by message id."""
    return {row[0]: row[1:] for row in world.server.rows(f'SELECT message_id, {columns} FROM cdp.event WHERE topic = %s', topic)}


def forms(world):
    """Structured, binary and batch in one topic; an event that comes in two forms is one event."""
    world.kafka.create_topic('cloud', 1)
    world.source('cloud', format='cloudevents', options=json.dumps({'batch': True}))
    time = '2026-03-01T10:00:00Z'
    data = {'total': 20.5}
    produce(world, 'cloud',
            (segment.encode({**cloud('s', time=time), 'data': data}), STRUCTURED),
            (segment.encode(data), headers(cloud('b', time=time, sequence='7'), ('content-type', 'application/json')), b'key-1'),
            (segment.encode([cloud('b1'), cloud('b2'), {'id': 'b3'}]), BATCH),
            (segment.encode(data), headers(cloud('s', time=time))),
            (None, headers(cloud('empty'))),
            (b'\x00\xff', headers(cloud('bytes'), ('content-type', 'application/avro'))),
            (None, []),
            (None, None, b'key-1'))
    world.caught_up('cloud', 'CloudEvents are consumed')
    shown = {'source': '/shop'}
    tap.same(stored(world, 'cloud', 'name, user_id, properties, context'), {
        '/shop s': ('com.example.ordered', 'cloud-1', data, shown),
        '/shop b': ('com.example.ordered', 'cloud-1', data, {**shown, 'sequence': '7', 'partitionkey': 'key-1', 'datacontenttype': 'application/json'}),
        '/shop b1': ('com.example.ordered', 'cloud-1', None, shown), '/shop b2': ('com.example.ordered', 'cloud-1', None, shown),
        '/shop empty': ('com.example.ordered', 'cloud-1', None, shown),
        '/shop bytes': ('com.example.ordered', 'cloud-1', {'data_base64': 'AP8='}, {**shown, 'datacontenttype': 'application/avro'})}, 'each form is stored, once')
    tap.same(world.server.rows("SELECT message_id FROM cdp.event WHERE topic = 'cloud' AND occurred_at = %s ORDER BY 1", time), [('/shop b',), ('/shop s',)],
             'at its time; the others when they were received')
    tap.same(world.server.rows("SELECT \"offset\", reason, detail FROM cdp.quarantine WHERE topic = 'cloud'"), [(2, 'missing_field', 'specversion')],
             'an element of a batch costs only itself')
    tap.same(world.status('cloud', 'tombstones'), [2], 'a record with neither value nor attributes is a tombstone')


def repaired(world):
    """What is wrong with attributes or data of a binary event waits in quarantine with its headers and key."""
    world.kafka.create_topic('faulty', 1)
    world.source('faulty', format='cloudevents')
    produce(world, 'faulty',
            (b'{"a": 1}', headers(cloud('time', time='soon')), b'key-2'),
            (b'{"a": ', headers(cloud('data'), ('ce_sequence', '8')), b'key-3'),
            (None, headers(cloud('nobody', subject=None))),
            (segment.encode([cloud('batch')]), BATCH))
    world.caught_up('faulty', 'faulty events are consumed')
    tap.same(world.server.rows("SELECT reason, detail, body_text, headers->>'ce_id' FROM cdp.quarantine WHERE topic = 'faulty' ORDER BY \"offset\""),
             [('invalid_time', 'time', '{"a": 1}', 'time'), ('invalid_json', None, '{"a": ', 'data'), ('no_identifier', None, None, 'nobody'),
              ('not_an_object', 'batch', segment.encode([cloud('batch')]).decode(), None)], 'quarantine shows headers')
    replay = "SELECT message_id, outcome, reason FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine WHERE topic = 'faulty' ORDER BY \"offset\"){}) ORDER BY 1, 3"
    tap.same(world.server.rows(replay.format('')), [('/shop nobody', 'quarantined', 'no_identifier'), ('/shop time', 'quarantined', 'invalid_time'),
                                                    (None, 'quarantined', 'invalid_json'), (None, 'quarantined', 'not_an_object')], 'replayed as they were they stay')
    world.server.rows("SELECT cdp.alter_source('faulty', options => %s)", json.dumps({'batch': True, 'mapping': {'user_id': '$.subject', 'anonymous_id': '$.id'}}))
    repair = """, $$CASE WHEN body_text = '{"a": ' THEN body_text || '2}'
        WHEN headers->>'ce_id' = 'time' THEN jsonb_build_object('specversion', '1.0', 'id', headers->>'ce_id', 'source', headers->>'ce_source', 'type', headers->>'ce_type',
            'subject', 'cloud-2', 'data', body_text::jsonb)::text END$$"""
    tap.same(world.server.rows(replay.format(repair)), [('/shop data', 'stored', None), ('/shop time', 'stored', None)], 'data and attributes can be repaired')
    tap.same(world.server.rows(replay.format('')), [('/shop batch', 'stored', None), ('/shop nobody', 'stored', None)], 'what lacked an option is taken with it, a null value too')
    tap.same(stored(world, 'faulty', 'user_id, anonymous_id, properties, context'), {
        '/shop data': ('cloud-1', 'data', {'a': 2}, {'source': '/shop', 'sequence': '8', 'partitionkey': 'key-3'}), '/shop time': ('cloud-2', 'time', {'a': 1}, {'source': '/shop'}),
        '/shop nobody': (None, 'nobody', None, {'source': '/shop'}), '/shop batch': ('cloud-1', 'batch', None, {'source': '/shop'})}, 'with headers and key, once')


def parked(world):
    """A binary event for somebody whom a client holds is parked with its headers, also one without value."""
    world.kafka.create_topic('held', 1)
    world.source('held', format='cloudevents')
    with world.server.connect(autocommit=False) as client:
        client.execute("SELECT cdp.ingest(%s)", (json.dumps(segment.identify('held-0', userId='cloud-held', traits={'plan': 'pro'})),))
        produce(world, 'held', (b'{"a": 3}', headers(cloud('held-1', subject='cloud-held')), b'key-4'), (None, headers(cloud('held-2', subject='cloud-held'))))
        tap.wait_for(lambda: world.server.value('SELECT count(*) FROM cdp_data.parked'), 'both are parked', good=lambda n: n == 2)
        client.commit()
    world.caught_up('held', 'parked events are applied')
    tap.same(stored(world, 'held', 'properties, context'), {'/shop held-1': ({'a': 3}, {'source': '/shop', 'partitionkey': 'key-4'}), '/shop held-2': (None, {'source': '/shop'})},
             'as they came')


def forgotten(world):
    """Headers and key may say who it is: a forgotten person is in neither."""
    world.kafka.create_topic('forget', 1)
    world.source('forget', format='cloudevents')
    produce(world, 'forget', (None, headers(cloud('forget-1', subject='cloud-forget'))), (b'{}', headers(cloud('forget-2', subject='cloud-forget', time='soon'))),
            (b'{}', headers(cloud('forget-3', subject=None)), b'cloud-forget'), (b'{', headers(cloud('forget-4'))))
    world.caught_up('forget', 'events of somebody who wants to be forgotten are consumed')
    left = "SELECT convert_from(key, 'UTF8'), cdp.header_object(headers)->>'ce_subject' FROM cdp_data.quarantine WHERE topic = 'forget' ORDER BY \"offset\""
    tap.same(world.server.rows(left), [(None, 'cloud-forget'), ('cloud-forget', None), (None, 'cloud-1')], 'quarantine knows who it is')
    world.server.rows("SELECT cdp.forget('user_id', 'cloud-forget', 'asked', dry_run => false)")
    tap.same(world.server.rows(left), [(None, 'cloud-1')], 'and knows no more')


def changed_mapping(world):
    """Another mapping holds for later messages; what was read before is the same when it is read again."""
    world.kafka.create_topic('legacy', 1)
    mapping = {'message_id': '$.no', 'name': {'constant': 'Order'}, 'time': '$.at', 'user_id': '$.customer'}
    world.source('legacy', format='json', options=json.dumps({'mapping': mapping}))
    orders = [segment.encode({'no': n, 'at': '2026-03-01T10:00:00Z', 'customer': f'legacy-{n}', 'mail': f'legacy-{n}@example.com', 'kind': 'paid'}) for n in range(3)]
    produce(world, 'legacy', (orders[0], None), (orders[1], None), (segment.encode({'no': 'x', 'buyer': 'legacy-x'}), None))
    world.caught_up('legacy', 'a mapped topic is consumed')
    mapping = {**mapping, 'name': '$.kind', 'identifiers': [{'namespace': 'email', 'value': '$.mail'}, {'namespace': 'user_id', 'value': '$.buyer'}]}
    world.server.rows("SELECT cdp.alter_source('legacy', options => %s)", json.dumps({'mapping': mapping}))
    produce(world, 'legacy', (orders[2], None))
    world.caught_up('legacy', 'and goes on with another mapping')
    expected = {'0': ('Order', {'kind': 'paid', 'mail': 'legacy-0@example.com'}), '1': ('Order', {'kind': 'paid', 'mail': 'legacy-1@example.com'}), '2': ('paid', {})}
    tap.same(stored(world, 'legacy', 'name, properties'), expected, 'what was stored before stays as it was')
    world.server.rows("SELECT cdp.set_source_position('legacy', 'legacy', 0, 0)")
    world.caught_up('legacy', 'read again from the start')
    tap.same(stored(world, 'legacy', 'name, properties'), {**expected, 'x': (None, {})}, 'it changes nothing; what was refused before is read with the new one')
    tap.same(world.server.rows("SELECT reason, count(*) FROM cdp.quarantine WHERE topic = 'legacy' GROUP BY 1"), [('no_identifier', 1)], 'no message conflicts with itself')
    tap.same(world.server.rows("SELECT outcome FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine WHERE topic = 'legacy'))"), [('duplicate',)],
             'quarantine is replayed with the new mapping, and knows that it came since')


def main():
    """All checks over one server and one broker."""
    worlds.run(worlds.World('formats'), (forms, repaired, parked, forgotten, changed_mapping))


tap.main(main)
