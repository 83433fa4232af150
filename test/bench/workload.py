"""The events that the benchmarks use: Segment calls of about 590 bytes, one in ten an identify."""
import json
import random

import segment

IDENTIFY_SHARE = 0.1
KNOWN_SHARE = 0.5
DAYS = 90


def person(n):
    """Identifiers of a person: user id and the anonymous id of one browser."""
    return f'user-{n:06}', f'{n * 2654435761 % 2 ** 32:08x}-9c1f-4b7e-8d5a-{n:012x}'


def lines(first, count, people):
    """Messages number first to first + count - 1, always the same ones; (key, bytes)."""
    choose = random.Random(first)
    context = json.dumps(segment.CONTEXT, separators=(',', ':'))
    for n in range(first, first + count):
        user, device = person(choose.randrange(people))
        at = choose.randrange(DAYS * 86_400_000)
        who = f'"anonymousId":"{device}"'
        head = (f'{{"messageId":"bench-{n:010}","originalTimestamp":"{segment.stamp(at)}",'
                f'"sentAt":"{segment.stamp(at + 20)}","receivedAt":"{segment.stamp(at + 40)}","context":{context},')
        draw = choose.random()
        if draw < IDENTIFY_SHARE:
            body = (f'"type":"identify","userId":"{user}",{who},"traits":{{"plan":"plan-{choose.randrange(5)}",'
                    f'"city":"Zürich","score":{choose.randrange(1000)}}}}}')
        else:
            if draw < IDENTIFY_SHARE + KNOWN_SHARE:
                who = f'"userId":"{user}",{who}'
            body = (f'"type":"track",{who},"event":"Product Viewed","properties":{{"product_id":"sku-{choose.randrange(2000)}",'
                    f'"category":"shoes","price":{choose.randrange(100, 20000) / 100},"currency":"EUR",'
                    f'"quantity":{choose.randrange(1, 5)}}}}}')
        yield device, (head + body).encode()


def history(n, events):
    """All that one busy person did: messages as JSON texts."""
    for i in range(events):
        yield json.dumps(segment.track(f'history-{n}-{i}', i * DAYS * 86_400_000 // events, userId=f'history-{n}', anonymousId=f'history-device-{n}-{i % 3}',
                                       context=segment.CONTEXT, properties={'n': i, 'price': i / 100}))
