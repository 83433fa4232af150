"""Messages of the Segment format, and what is stored of them."""
import datetime
import json

EPOCH = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)
CONTEXT = {'library': {'name': 'analytics.js', 'version': '4.1.0'}, 'page': {'path': '/shop/shoes', 'title': 'Shoes'},
           'userAgent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36',
           'ip': '203.0.113.7'}


def stamp(milliseconds):
    """A time stamp so long after EPOCH, as trackers write it."""
    instant = EPOCH + datetime.timedelta(milliseconds=milliseconds)
    return instant.strftime('%Y-%m-%dT%H:%M:%S.') + f'{instant.microsecond // 1000:03}Z'


def track(message_id, milliseconds=0, event='Product Viewed', **fields):
    """A track call; fields are top-level members and win."""
    return {'type': 'track', 'messageId': message_id, 'event': event, 'originalTimestamp': stamp(milliseconds),
            'sentAt': stamp(milliseconds + 20), 'receivedAt': stamp(milliseconds + 40), **fields}


def identify(message_id, milliseconds=0, **fields):
    """An identify call; fields are top-level members and win."""
    message = track(message_id, milliseconds, **fields)
    del message['event']
    return {**message, 'type': 'identify'}


def encode(message):
    """The bytes that go over the wire."""
    return json.dumps(message, ensure_ascii=False, separators=(',', ':')).encode()
