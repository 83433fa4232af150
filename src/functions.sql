-- The frame: set-up, clock, partitions, and what secures tables and views.
-- Functions that no role may execute are steps of cdp.setup() and maintenance;
-- they fix the search path, for the superuser who calls one by hand.

CREATE FUNCTION cdp.setup() RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_setup';
REVOKE ALL ON FUNCTION cdp.setup() FROM PUBLIC;
COMMENT ON FUNCTION cdp.setup() IS
'Makes the tables, policies, views and the key of cdp in this database, or what is missing of them. May be run again: after DROP EXTENSION and CREATE EXTENSION, and after a restore, where it attaches the workers and leaves the Kafka sources paused. Superusers only. Raises when the key file is missing or holds another key, and when the database is not in UTF8.';

CREATE FUNCTION cdp.migrate() RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_migrate';
REVOKE ALL ON FUNCTION cdp.migrate() FROM PUBLIC;
COMMENT ON FUNCTION cdp.migrate() IS
'Brings the tables of an older version to the layout of this one. Superusers only. Raises when there is nothing to do.';

CREATE FUNCTION cdp.now() RETURNS timestamptz
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_now';
REVOKE ALL ON FUNCTION cdp.now() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.now() TO cdp_admin, cdp_ingest, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.now() IS
'The time that cdp works with: the start of the transaction, the instant of the batch inside the engine, or the setting cdp.clock of a test.';

CREATE FUNCTION cdp.read_stage_stats(OUT stage text, OUT calls bigint, OUT rows bigint, OUT total_ns bigint, OUT max_ns bigint)
	RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cdp_sql_stage_stats';
REVOKE ALL ON FUNCTION cdp.read_stage_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.read_stage_stats() TO cdp_admin, cdp_auditor, pg_monitor;
COMMENT ON FUNCTION cdp.read_stage_stats() IS
'Counters behind cdp.stage_stats, for the whole server, times in nanoseconds. No rows when the library was not preloaded.';

CREATE FUNCTION cdp.reset_stage_stats() RETURNS void
	LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cdp_sql_reset_stage_stats';
REVOKE ALL ON FUNCTION cdp.reset_stage_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.reset_stage_stats() TO cdp_admin;
COMMENT ON FUNCTION cdp.reset_stage_stats() IS 'Sets the counters of cdp.stage_stats to zero, for the whole server.';

CREATE FUNCTION cdp.config_changed() RETURNS trigger
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_config_changed';
REVOKE ALL ON FUNCTION cdp.config_changed() FROM PUBLIC;
COMMENT ON FUNCTION cdp.config_changed() IS 'Trigger of the configuration tables: every backend loads its configuration again.';

-- ---------------------------------------------------------------- tables and partitions

CREATE FUNCTION cdp.secure_table(target pg_catalog.regclass) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	enabled boolean;
	forced boolean;
	owned boolean;
	has_workspace boolean;
	col name;
BEGIN
	SELECT c.relrowsecurity, c.relforcerowsecurity, c.relowner = 'cdp_owner'::pg_catalog.regrole
		INTO STRICT enabled, forced, owned
		FROM pg_catalog.pg_class c WHERE c.oid = target;
	-- each step only where it is needed: they take strong locks
	IF NOT owned THEN
		EXECUTE pg_catalog.format('ALTER TABLE %s OWNER TO cdp_owner', target);
	END IF;
	IF NOT enabled THEN
		EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
	END IF;
	IF NOT forced THEN
		EXECUTE pg_catalog.format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
	END IF;
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = target AND p.polname = 'workspace') THEN
		has_workspace := EXISTS (SELECT FROM pg_catalog.pg_attribute a
								 WHERE a.attrelid = target AND a.attname = 'workspace_id' AND NOT a.attisdropped);
		EXECUTE pg_catalog.format('CREATE POLICY workspace ON %s USING (%s)', target,
			CASE WHEN has_workspace
				 THEN 'workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace())'
				 ELSE 'false' END);
	END IF;
	FOR col IN
		SELECT a.attname
		FROM pg_catalog.pg_attribute a
			JOIN pg_catalog.pg_class root ON root.oid = COALESCE(pg_catalog.pg_partition_root(target), target)
			JOIN cdp_data.data_registry r ON r.table_name = root.relname AND r.column_name = a.attname
		WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
			AND r.class IN ('identifier', 'personal') AND COALESCE(a.attstattarget, -1) <> 0
	LOOP
		EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', target, col);
	END LOOP;
	EXECUTE pg_catalog.format('REVOKE ALL ON TABLE %s FROM PUBLIC', target);
END
$$;
REVOKE ALL ON FUNCTION cdp.secure_table(pg_catalog.regclass) FROM PUBLIC;
COMMENT ON FUNCTION cdp.secure_table(pg_catalog.regclass) IS
'Gives a table or partition of cdp_data what none may lack: its owner, forced row security with the one policy, and no statistics on columns with personal data. Changes only what is missing.';

CREATE FUNCTION cdp.set_compression(target pg_catalog.regclass) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	col name;
BEGIN
	-- lz4 is an option of the server's build
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_settings s
				   WHERE s.name = 'default_toast_compression' AND 'lz4' = ANY (s.enumvals)) THEN
		RETURN;
	END IF;
	FOR col IN
		SELECT a.attname FROM pg_catalog.pg_attribute a
		WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
			AND a.attstorage IN ('x', 'm') AND a.attcompression <> 'l'
	LOOP
		EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION lz4', target, col);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION cdp.set_compression(pg_catalog.regclass) FROM PUBLIC;
COMMENT ON FUNCTION cdp.set_compression(pg_catalog.regclass) IS
'Makes a table of cdp_data compress long values with lz4, where the server has it.';

CREATE FUNCTION cdp.make_leaf(parent text, leaf text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	EXECUTE pg_catalog.format('CREATE TABLE cdp_data.%I (LIKE cdp_data.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION)',
							  leaf, parent);
	IF parent = 'event' THEN
		EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I ADD CONSTRAINT %I PRIMARY KEY (fragment_id, occurred_at, event_id)',
								  leaf, leaf || '_pkey');
	ELSE
		EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I SET (fillfactor = 90)', leaf);
		EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I ADD CONSTRAINT %I PRIMARY KEY (key)', leaf, leaf || '_pkey');
	END IF;
	PERFORM cdp.copy_statistics(pg_catalog.format('cdp_data.%I', parent)::pg_catalog.regclass,
								pg_catalog.format('cdp_data.%I', leaf)::pg_catalog.regclass);
	PERFORM cdp.secure_table(pg_catalog.format('cdp_data.%I', leaf)::pg_catalog.regclass);
	EXECUTE pg_catalog.format('COMMENT ON TABLE cdp_data.%I IS %L', leaf,
							  pg_catalog.format('Partition of %s.', parent));
END
$$;
REVOKE ALL ON FUNCTION cdp.make_leaf(text, text) FROM PUBLIC;
COMMENT ON FUNCTION cdp.make_leaf(text, text) IS
'The only maker of partitions: a table that can be attached to event or message_seen.';

CREATE FUNCTION cdp.make_partition(parent text, lower_bound timestamptz, upper_bound timestamptz) RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	col constant text := CASE parent WHEN 'event' THEN 'occurred_at' WHEN 'message_seen' THEN 'stamp' END;
	leaf constant text := cdp.partition_name(parent, lower_bound, upper_bound);
BEGIN
	PERFORM cdp.make_leaf(parent, leaf);
	PERFORM cdp.attach_partition(parent, leaf, col, lower_bound, upper_bound);
	RETURN leaf;
END
$$;
REVOKE ALL ON FUNCTION cdp.make_partition(text, timestamptz, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION cdp.make_partition(text, timestamptz, timestamptz) IS
'Makes an empty partition of event or message_seen, from lower_bound (NULL: from the beginning) to before upper_bound (NULL: to the end). Returns its name.';

CREATE FUNCTION cdp.copy_statistics(parent pg_catalog.regclass, leaf pg_catalog.regclass) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	col name;
BEGIN
	FOR col IN
		SELECT a.attname FROM pg_catalog.pg_attribute a
		WHERE a.attrelid = parent AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget = 0
	LOOP
		EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', leaf, col);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION cdp.copy_statistics(pg_catalog.regclass, pg_catalog.regclass) FROM PUBLIC;
COMMENT ON FUNCTION cdp.copy_statistics(pg_catalog.regclass, pg_catalog.regclass) IS
'Columns without statistics in the parent get none in the leaf: PostgreSQL does not inherit that.';

CREATE FUNCTION cdp.partition_name(parent text, lower_bound timestamptz, upper_bound timestamptz) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
SELECT parent OPERATOR(pg_catalog.||) CASE
		WHEN lower_bound IS NULL THEN '_first'
		WHEN upper_bound IS NULL THEN '_last'
		ELSE pg_catalog.to_char(pg_catalog.timezone('UTC', lower_bound), '"_"YYYYMM') END
$$;
REVOKE ALL ON FUNCTION cdp.partition_name(text, timestamptz, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION cdp.partition_name(text, timestamptz, timestamptz) IS
'Name of the partition of a month: parent_YYYYMM, or parent_first and parent_last for the open ends.';

CREATE FUNCTION cdp.attach_partition(parent text, leaf text, col text, lower_bound timestamptz, upper_bound timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET TimeZone = 'UTC'
	AS $$
BEGIN
	-- the CHECK proves the range, so that ATTACH reads no row
	EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I ADD CONSTRAINT %I CHECK (%s)', leaf, leaf || '_range_check',
		pg_catalog.concat_ws(' AND ',
			CASE WHEN lower_bound IS NOT NULL THEN pg_catalog.format('%I >= %L::timestamptz', col, lower_bound) END,
			CASE WHEN upper_bound IS NOT NULL THEN pg_catalog.format('%I < %L::timestamptz', col, upper_bound) END));
	EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I ATTACH PARTITION cdp_data.%I FOR VALUES FROM (%s) TO (%s)', parent, leaf,
		COALESCE(pg_catalog.quote_literal(lower_bound), 'MINVALUE'),
		COALESCE(pg_catalog.quote_literal(upper_bound), 'MAXVALUE'));
END
$$;
REVOKE ALL ON FUNCTION cdp.attach_partition(text, text, text, timestamptz, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION cdp.attach_partition(text, text, text, timestamptz, timestamptz) IS
'Attaches a table as the partition of a range, with a CHECK of the same range.';

-- the bound is read as it is written, which names of time zones do not allow
CREATE FUNCTION cdp.last_partition_begins(parent text) RETURNS timestamptz
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET TimeZone = 'UTC'
	AS $$
SELECT (pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'FROM [(]''([^'']*)''[)] TO [(]MAXVALUE[)]'))[1]::timestamptz
FROM pg_catalog.pg_class c
	JOIN pg_catalog.pg_inherits i ON i.inhrelid OPERATOR(pg_catalog.=) c.oid
WHERE i.inhparent OPERATOR(pg_catalog.=) pg_catalog.format('cdp_data.%I', parent)::pg_catalog.regclass
	AND c.relname OPERATOR(pg_catalog.=) (parent OPERATOR(pg_catalog.||) '_last')::name
$$;
REVOKE ALL ON FUNCTION cdp.last_partition_begins(text) FROM PUBLIC;
COMMENT ON FUNCTION cdp.last_partition_begins(text) IS
'Lower bound of the partition that ends at MAXVALUE; NULL when there are no partitions yet.';

CREATE FUNCTION cdp.partition_months_due(instant timestamptz) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS $$
SELECT pg_catalog.bool_or(COALESCE(cdp.last_partition_begins(p) OPERATOR(pg_catalog.<=)
								   pg_catalog.timezone('UTC', pg_catalog.date_trunc('month', pg_catalog.timezone('UTC', instant))
													   OPERATOR(pg_catalog.+) interval '2 months'), true))
FROM pg_catalog.unnest(ARRAY['event', 'message_seen']) p
$$;
REVOKE ALL ON FUNCTION cdp.partition_months_due(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION cdp.partition_months_due(timestamptz) IS
'Whether months up to the second after that of the instant still have no partition.';

CREATE FUNCTION cdp.split_last_partition(parent text, lower_bound timestamptz, upper_bound timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	col constant text := CASE parent WHEN 'event' THEN 'occurred_at' WHEN 'message_seen' THEN 'stamp' END;
	leaf constant text := cdp.partition_name(parent, lower_bound, upper_bound);
	last_leaf constant text := cdp.partition_name(parent, lower_bound, NULL);
BEGIN
	EXECUTE pg_catalog.format('LOCK TABLE cdp_data.%I IN ACCESS EXCLUSIVE MODE', parent);
	-- rows are written and deleted in tables that are no partitions at that moment: for a publication of the parent
	-- they stay where they are
	PERFORM cdp.make_leaf(parent, leaf);
	EXECUTE pg_catalog.format('INSERT INTO cdp_data.%I SELECT * FROM cdp_data.%I WHERE %I < $1', leaf, last_leaf, col) USING upper_bound;
	EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I DETACH PARTITION cdp_data.%I', parent, last_leaf);
	EXECUTE pg_catalog.format('DELETE FROM cdp_data.%I WHERE %I < $1', last_leaf, col) USING upper_bound;
	PERFORM cdp.attach_partition(parent, leaf, col, lower_bound, upper_bound);
	EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I DROP CONSTRAINT %I', last_leaf, last_leaf || '_range_check');
	PERFORM cdp.attach_partition(parent, last_leaf, col, upper_bound, NULL);
END
$$;
REVOKE ALL ON FUNCTION cdp.split_last_partition(text, timestamptz, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION cdp.split_last_partition(text, timestamptz, timestamptz) IS
'Cuts the month between the bounds off the partition that ends at MAXVALUE, with the rows that lie in it. Locks the parent (ACCESS EXCLUSIVE).';

CREATE FUNCTION cdp.make_partitions(instant timestamptz) RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	-- months are months of UTC; local time stamps without zone below
	this_month constant timestamp := pg_catalog.date_trunc('month', pg_catalog.timezone('UTC', instant));
	parent text;
	bound timestamptz;
	next_bound timestamptz;
	made integer := 0;
BEGIN
	IF NOT pg_catalog.isfinite(instant) THEN
		RAISE EXCEPTION 'partitions cannot be made up to %', instant
			USING ERRCODE = 'datetime_field_overflow', HINT = 'Name an instant, cdp.now() for example.';
	END IF;
	-- in the order in which batches lock them
	FOREACH parent IN ARRAY ARRAY['message_seen', 'event'] LOOP
		bound := cdp.last_partition_begins(parent);
		IF bound IS NULL THEN
			bound := pg_catalog.timezone('UTC', this_month);
			PERFORM cdp.make_partition(parent, NULL, bound);
			PERFORM cdp.make_partition(parent, bound, NULL);
			made := made + 2;
		END IF;
		WHILE bound <= pg_catalog.timezone('UTC', this_month + interval '2 months') LOOP
			next_bound := pg_catalog.timezone('UTC', pg_catalog.timezone('UTC', bound) + interval '1 month');
			PERFORM cdp.split_last_partition(parent, bound, next_bound);
			bound := next_bound;
			made := made + 1;
		END LOOP;
	END LOOP;
	RETURN made;
END
$$;
REVOKE ALL ON FUNCTION cdp.make_partitions(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION cdp.make_partitions(timestamptz) IS
'Makes the partitions that are missing: from the beginning to this month, one a month up to the second after it, and one to the end. Returns how many it made. Raises when the instant is infinite.';

CREATE FUNCTION cdp.drop_first_partitions(parent text, leaves text[], upper_bound timestamptz, frozen boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	col constant text := CASE parent WHEN 'event' THEN 'occurred_at' WHEN 'message_seen' THEN 'stamp' END;
	first_leaf constant text := cdp.partition_name(parent, NULL, upper_bound);
	leaf text;
	empty boolean;
BEGIN
	EXECUTE pg_catalog.format('LOCK TABLE ONLY cdp_data.%I IN ACCESS EXCLUSIVE MODE', parent);
	IF pg_catalog.cardinality(leaves) > 0 THEN
		EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I DETACH PARTITION cdp_data.%I', parent, first_leaf);
		EXECUTE pg_catalog.format('ALTER TABLE cdp_data.%I DROP CONSTRAINT %I', first_leaf, first_leaf || '_range_check');
	END IF;
	FOREACH leaf IN ARRAY leaves LOOP
		IF NOT frozen THEN
			EXECUTE pg_catalog.format('INSERT INTO cdp_data.%I SELECT * FROM cdp_data.%I', first_leaf, leaf);
		END IF;
		EXECUTE pg_catalog.format('DROP TABLE cdp_data.%I', leaf);
	END LOOP;
	EXECUTE pg_catalog.format('SELECT NOT EXISTS (SELECT FROM cdp_data.%I)', first_leaf) INTO empty;
	IF empty THEN
		EXECUTE pg_catalog.format('TRUNCATE cdp_data.%I', first_leaf);
	END IF;
	IF pg_catalog.cardinality(leaves) > 0 THEN
		PERFORM cdp.attach_partition(parent, first_leaf, col, NULL, upper_bound);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION cdp.drop_first_partitions(text, text[], timestamptz, boolean) FROM PUBLIC;
COMMENT ON FUNCTION cdp.drop_first_partitions(text, text[], timestamptz, boolean) IS
'Drops the partitions that follow the first one (leaves, up to upper_bound) and lets the first reach to there, so that history of any age has a place. Rows that they still hold are moved into it, unless they are frozen, which means that they were seen empty and nobody writes into them; a first one that is empty is truncated. Locks the parent (ACCESS EXCLUSIVE).';

-- ---------------------------------------------------------------- views

CREATE FUNCTION cdp.secure_views() RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	barrier constant boolean := (SELECT pg_catalog.count(*) > 1 FROM cdp_data.workspace);
	v pg_catalog.regclass;
BEGIN
	-- rows are filtered by the policies of the tables; the barrier keeps functions of the reader's from seeing them first
	FOR v IN
		SELECT c.oid FROM pg_catalog.pg_class c
		WHERE c.relnamespace = 'cdp'::pg_catalog.regnamespace AND c.relkind = 'v'
			AND ('security_barrier=true' = ANY (COALESCE(c.reloptions, '{}'))) <> barrier
	LOOP
		IF barrier THEN
			EXECUTE pg_catalog.format('ALTER VIEW %s SET (security_barrier = true)', v);
		ELSE
			EXECUTE pg_catalog.format('ALTER VIEW %s RESET (security_barrier)', v);
		END IF;
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION cdp.secure_views() FROM PUBLIC;
COMMENT ON FUNCTION cdp.secure_views() IS
'Makes the views of cdp security barriers while there is more than one workspace.';
