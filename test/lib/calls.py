"""Every function that somebody may call, with arguments that mean something where source `shop` and user `u-7` are."""

# what asks and changes nothing; each has the same answer on primary and standby
QUESTIONS = ["cdp.find_profile('user_id', 'u-7')", "cdp.find_profile('email', 'U8@Shop.Example')",
             "cdp.find_profile('profile_id', '1')", "cdp.get_profile('anonymous_id', 'a-9')",
             'cdp.current_workspace()', 'cdp.required_workspace()', 'cdp.read_workspaces()', 'cdp.values_workspace()', 'cdp.pseudonym(42)', "cdp.utf8_text('abc')", "cdp.header_object('')", "cdp.forget('user_id', 'u-7', 'a question')",
             "cdp.purge_before('2026-01-01')",
             """cdp.mask_traits('{"plan": 1, "secret": 2}', 1)""", """cdp.mask_properties('{"email": 1, "n": 2}', 1)""",
             """cdp.mask_context('{"ip": 1, "locale": 2}')"""]
# what the caller can do to the data
CHANGES = ["SELECT cdp.setup()", "SELECT cdp.create_source('other')",
           "SELECT cdp.alter_source('shop', workers => 2)", "SELECT cdp.pause_source('shop')",
           "SELECT cdp.resume_source('shop')", "SELECT cdp.drop_source('shop')",
           "SELECT cdp.wait_for_source('shop', '1 s')", "SELECT cdp.set_source_position('shop', 'shop', 0, 0)",
           "SELECT cdp.adopt_source('shop', 'shop', 0, 0)", """SELECT cdp.ingest('{"type": "track"}')""",
           """SELECT cdp.ingest_many(ARRAY['{"type": "track"}'::pg_catalog.jsonb])""", "INSERT INTO cdp.inbox (message) VALUES ('{}')",
           "COPY cdp.inbox (message) FROM STDIN", "SELECT cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine))",
           "SELECT cdp.set_namespace('other')", "SELECT cdp.set_identity_policy('components')",
           "SELECT cdp.create_workspace('other')", "SELECT cdp.grant_workspace('ana', 'default')",
           "SELECT cdp.revoke_workspace('ana', 'default')", "SELECT cdp.classify_trait('plan', 'personal')",
           "SELECT cdp.drop_workspace('default', dry_run => false)", "SELECT cdp.purge_before('2026-01-01', dry_run => false)",
           "SELECT cdp.forget('user_id', 'u-7', 'request', dry_run => false)"]
# neither: steps of others, and the counters of the server itself
NEITHER = {'config_changed', 'declare_traits_step', 'declared_traits', 'expected_people', 'has_identifier', 'inbox_begin', 'inbox_end',
           'inbox_row', 'merge_traits', 'merge_traits_final', 'merge_traits_step', 'migrate', 'now', 'read_filters', 'read_stage_stats',
           'reset_stage_stats', 'server_status', 'source_errors', 'source_partitions', 'source_workers', 'stamped_traits_final', 'stored_traits', 'verify'}


def left_out(server):
    """Functions that somebody may call, and that are in no list here."""
    public = {name for name, in server.rows(
        """SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'cdp'::regnamespace AND p.proname IN ('setup', 'migrate')
           UNION SELECT p.proname FROM pg_proc p, aclexplode(p.proacl) a
           WHERE p.pronamespace = 'cdp'::regnamespace AND a.grantee <> p.proowner""")}
    tried = ' '.join(QUESTIONS + CHANGES)
    return sorted(name for name in public - NEITHER if f'cdp.{name}(' not in tried)
