"""The order lines of Online Retail as the messages of a web shop.

Each invoice becomes one `Order Completed`, or `Order Refunded` when its number
begins with C; the descriptions stay behind, since one invoice has 265 lines
and a message may have 1,000 keys.  The visits around it are generated, always the same ones: pages
and products that an anonymous browser looked at before it ordered; with the
first order an `identify` says whose browser it was.
"""
import collections
import csv
import datetime
import random
from decimal import Decimal

NOBODY = '0.0'                  # the placeholder of the data for an unknown customer
VIEWS_PER_ORDER = 20
PRODUCTS = ('Lantern', 'Cake stand', 'Bunting', 'Tea light holder', 'Lunch bag', 'Alarm clock')

Invoice = collections.namedtuple('Invoice', 'number customer country at lines')


def read(path):
    """All invoices in order of time; a line is (stock code, quantity, unit price)."""
    lines = collections.defaultdict(list)
    with open(path, encoding='utf-8', newline='') as f:
        for row in csv.DictReader(f):
            lines[row['InvoiceNo']].append(row)
    invoices = []
    for number, rows in lines.items():
        at = max(datetime.datetime.fromisoformat(row['InvoiceDate']) for row in rows)
        invoices.append(Invoice(number, rows[0]['CustomerID'], rows[0]['Country'], at, [
            (row['StockCode'], int(row['Quantity']), Decimal(row['UnitPrice'])) for row in rows]))
    return sorted(invoices, key=lambda invoice: (invoice.at, invoice.number))


def device_of(customer):
    """The anonymous id of a customer's browser."""
    return 'browser-' + customer.partition('.')[0]


def call(kind, message_id, at, **fields):
    """A message of the Segment format."""
    stamp = at.isoformat(timespec='milliseconds') + 'Z'
    return {'type': kind, 'messageId': message_id, 'originalTimestamp': stamp, 'sentAt': stamp, 'receivedAt': stamp,
            **fields}


def order(invoice):
    """The message of one invoice."""
    event = 'Order Refunded' if invoice.number.startswith('C') else 'Order Completed'
    total = sum(quantity * price for _, quantity, price in invoice.lines)
    return call('track', 'invoice-' + invoice.number, invoice.at, event=event, userId=invoice.customer, properties={
        'order_id': invoice.number, 'total': float(total), 'currency': 'GBP',
        'products': [{'product_id': code, 'quantity': quantity, 'price': float(price)}
                     for code, quantity, price in invoice.lines]})


def visit(invoice, choose):
    """What the customer's browser did in the minutes before the order."""
    device = device_of(invoice.customer)
    at = invoice.at - datetime.timedelta(minutes=VIEWS_PER_ORDER)
    for n in range(VIEWS_PER_ORDER):
        at += datetime.timedelta(seconds=choose.randrange(5, 55))
        message_id = f'visit-{invoice.number}-{n}'
        if n % 4 == 0:
            yield call('page', message_id, at, anonymousId=device, name='Category', properties={'path': '/gifts'})
        else:
            yield call('track', message_id, at, anonymousId=device, event='Product Viewed',
                       properties={'name': choose.choice(PRODUCTS), 'price': choose.randrange(100, 2000) / 100})


def sign_in(invoice):
    """The identify that makes the visitor a customer."""
    return call('identify', 'sign-in-' + invoice.customer, invoice.at - datetime.timedelta(seconds=30),
                anonymousId=device_of(invoice.customer), userId=invoice.customer, traits={'country': invoice.country})


def messages(invoices, last_customer):
    """Every message of the shop in order of time; the sign-in of last_customer is kept for the end of the tour."""
    choose = random.Random(1)
    known = {NOBODY, last_customer}
    for invoice in invoices:
        if invoice.customer != NOBODY:
            yield from visit(invoice, choose)
        if invoice.customer not in known:
            known.add(invoice.customer)
            yield sign_in(invoice)
        yield order(invoice)
