"""What is in a database: digests of all tables of cdp_data and of all public views, to compare copies of it."""
import psycopg

# cdp.setup() writes it, and the maintenance worker keeps the clock's floor there
SETTLED_APART = {'instance'}
# the state of a server, or no rows at all
NOT_DATA = {'inbox', 'stage_stats', 'status'}
# of these, what does not depend on running workers
COLUMNS = {'source_status': 'source, workspace, topic, "partition", "position"'}

RELATIONS = """SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relnamespace = %s::regnamespace AND c.relkind = ANY (%s) ORDER BY 1"""
# the session may have settings of its own; the copies that are compared have them, too
DIGEST = """SELECT count(*), md5(string_agg(h, '' ORDER BY h)) FROM (SELECT md5(q::text) AS h FROM (SELECT {columns} FROM {schema}.{name}) q) d"""


def _digests(connection, schema, kinds, left_out):
    names = [name for name, in connection.execute(RELATIONS, (schema, kinds)).fetchall() if name not in left_out]
    return {name: connection.execute(DIGEST.format(schema=schema, name=name, columns=COLUMNS.get(name, '*'))).fetchone()
            for name in names}


def tables(connection, *left_out):
    """{table: (rows, digest)} of cdp_data, partitioned tables and each of their partitions; by a superuser."""
    return _digests(connection, 'cdp_data', ['r', 'p'], SETTLED_APART | set(left_out))


def sequences(connection):
    """(sequence, last value) of those of cdp_data."""
    return connection.execute("SELECT sequencename, last_value FROM pg_catalog.pg_sequences WHERE schemaname = 'cdp_data' ORDER BY 1").fetchall()


def views(connection, *left_out):
    """{view: (rows, digest)} of what the caller may read of the public views; None: nothing."""
    found = {}
    for name, in connection.execute(RELATIONS, ('cdp', ['v'])).fetchall():
        if name in NOT_DATA | set(left_out):
            continue
        try:
            found[name] = connection.execute(DIGEST.format(schema='cdp', name=name, columns=COLUMNS.get(name, '*'))).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            found[name] = None
    return found


def differences(one, other):
    """What is not the same, as text; empty when nothing is."""
    return '\n'.join(f'{name}: {one.get(name)} and {other.get(name)}'
                     for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name))
