-- Namespaces and the identity policy.

CREATE FUNCTION cdp.make_default_namespaces(target integer) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
INSERT INTO cdp_data.namespace (workspace_id, name, priority, value_limit, owner, normaliser, blocked)
SELECT target, d.name, d.priority, d.value_limit, d.value_limit OPERATOR(pg_catalog.=) 1, d.normaliser,
	ARRAY['re:[0-]*', '-1', 'i:null', 'i:nil', 'i:none', 'i:nan', 'i:n/a', 'i:undefined', 'i:unknown', 'i:anonymous',
		  'i:guest', 'i:nobody', 'i:invalid', 'i:not set', 'i:(not set)', 'i:(null)', 'i:(none)', 'i:[object object]',
		  'i:true', 'i:false']
FROM (VALUES
	('user_id', 1, 1, 'trim'),
	('email', 2, 5, 'trim,lower'),
	('phone', 3, 5, 'digits'),
	('anonymous_id', 4, 100, 'trim'),
	('android.id', 5, 100, 'trim'),
	('android.idfa', 5, 100, 'trim'),
	('android.push_token', 5, 100, 'trim'),
	('ios.id', 5, 100, 'trim'),
	('ios.idfa', 5, 100, 'trim'),
	('ios.push_token', 5, 100, 'trim'),
	('ga_client_id', 6, 100, 'trim')) AS d(name, priority, value_limit, normaliser)
$$;
REVOKE ALL ON FUNCTION cdp.make_default_namespaces(integer) FROM PUBLIC;
COMMENT ON FUNCTION cdp.make_default_namespaces(integer) IS
'Gives a new workspace the namespaces that format segment knows, with the usual limits and blocked values.';

CREATE FUNCTION cdp.store_namespace(name text, priority integer, level text, value_limit integer, limit_window interval,
		degree integer, owner boolean, normaliser text, valid text, blocked text[], weight real, target integer) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
#variable_conflict use_column
DECLARE
	old record;
	new record;
BEGIN
	SELECT n.* INTO old FROM cdp_data.namespace n
		WHERE n.workspace_id = store_namespace.target AND n.name = store_namespace.name FOR UPDATE;
	new := old;
	IF old.namespace_id IS NULL THEN
		new.workspace_id := target;
		new.name := store_namespace.name;
		new.priority := (SELECT LEAST(COALESCE(pg_catalog.max(n.priority), 0) + 1, 10000) FROM cdp_data.namespace n WHERE n.workspace_id = target);
		new.level := 'individual';
		new.normaliser := 'trim';
		new.blocked := '{}';
		new.weight := 1;
	END IF;
	new.priority := COALESCE(store_namespace.priority, new.priority);
	new.level := COALESCE(store_namespace.level, new.level);
	new.normaliser := COALESCE(store_namespace.normaliser, new.normaliser);
	new.blocked := COALESCE(store_namespace.blocked, new.blocked);
	new.weight := COALESCE(store_namespace.weight, new.weight);
	-- for these NULL is a value; their defaults say that they were not given
	IF value_limit IS DISTINCT FROM -1 THEN new.value_limit := store_namespace.value_limit; END IF;
	IF limit_window IS DISTINCT FROM interval '-1 second' THEN new.limit_window := store_namespace.limit_window; END IF;
	IF degree IS DISTINCT FROM -1 THEN new.degree := store_namespace.degree; END IF;
	IF valid IS DISTINCT FROM '' THEN new.valid := store_namespace.valid; END IF;
	-- follows the limit, unless it was given
	IF owner IS NOT NULL THEN
		new.owner := store_namespace.owner;
	ELSIF old.namespace_id IS NULL OR (new.value_limit, new.limit_window) IS DISTINCT FROM (old.value_limit, old.limit_window) THEN
		new.owner := COALESCE(new.value_limit = 1 AND new.limit_window IS NULL, false);
	END IF;

	IF old.namespace_id IS NULL THEN
		INSERT INTO cdp_data.namespace (workspace_id, name, priority, level, value_limit, limit_window, degree, owner, normaliser, valid, blocked, weight)
			VALUES (new.workspace_id, new.name, new.priority, new.level, new.value_limit, new.limit_window, new.degree, new.owner,
					new.normaliser, new.valid, new.blocked, new.weight);
		RETURN;
	END IF;
	IF (new.priority, new.level, new.value_limit, new.limit_window, new.degree, new.owner, new.normaliser)
			IS DISTINCT FROM (old.priority, old.level, old.value_limit, old.limit_window, old.degree, old.owner, old.normaliser)
		AND EXISTS (SELECT FROM cdp_data.identifier i WHERE i.namespace_id = old.namespace_id) THEN
		RAISE EXCEPTION 'namespace "%" has identifiers, so its rules can not change', old.name
			USING ERRCODE = 'object_in_use',
				DETAIL = 'Who is who was decided by priority, level, limit, degree, owner and normaliser of the namespace.',
				HINT = 'Set them before the first message. Blocked values, valid and weight may change at any time, for later messages.';
	END IF;
	IF (new.level, new.normaliser) IS DISTINCT FROM (old.level, old.normaliser)
		AND EXISTS (SELECT FROM cdp_data.suppression s WHERE s.workspace_id = target) THEN
		RAISE EXCEPTION 'people were forgotten, so level and normaliser of namespace "%" can not change', old.name
			USING ERRCODE = 'object_in_use', DETAIL = 'A replay of their messages would no longer be recognised.';
	END IF;
	UPDATE cdp_data.namespace n SET (priority, level, value_limit, limit_window, degree, owner, normaliser, valid, blocked, weight)
			= (new.priority, new.level, new.value_limit, new.limit_window, new.degree, new.owner, new.normaliser, new.valid, new.blocked, new.weight)
		WHERE n.namespace_id = old.namespace_id;
END
$$;
REVOKE ALL ON FUNCTION cdp.store_namespace(text, integer, text, integer, interval, integer, boolean, text, text, text[], real, integer) FROM PUBLIC;
COMMENT ON FUNCTION cdp.store_namespace(text, integer, text, integer, interval, integer, boolean, text, text, text[], real, integer) IS
'Second half of cdp.set_namespace, which has checked the arguments.';

CREATE FUNCTION cdp.set_namespace(name text, priority integer DEFAULT NULL, level text DEFAULT NULL,
		value_limit integer DEFAULT -1, limit_window interval DEFAULT '-1 second', degree integer DEFAULT -1,
		owner boolean DEFAULT NULL, normaliser text DEFAULT NULL, valid text DEFAULT '', blocked text[] DEFAULT NULL,
		weight real DEFAULT NULL, workspace text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_set_namespace';
REVOKE ALL ON FUNCTION cdp.set_namespace(text, integer, text, integer, interval, integer, boolean, text, text, text[], real, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.set_namespace(text, integer, text, integer, interval, integer, boolean, text, text, text[], real, text) TO cdp_admin;
COMMENT ON FUNCTION cdp.set_namespace(text, integer, text, integer, interval, integer, boolean, text, text, text[], real, text) IS
'Makes a namespace, or changes what is given of one. An argument that is left out stays as it is; for a new namespace it is: priority after the others, level individual, no value_limit, no limit_window (within it of each other values count), no degree, normaliser trim, any value valid, none blocked, weight 1. NULL for value_limit, limit_window, degree or valid takes the limit away; for the others it means left out. owner follows the limit (true for value_limit 1 without window) unless it is given. In the caller''s workspace, or the one named. Raises on values that make no sense, when a rule that decided who is who would change for a namespace with identifiers, and when level or normaliser would change in a workspace where people were forgotten.';

CREATE FUNCTION cdp.store_identity_policy(policy text, target integer) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	UPDATE cdp_data.workspace w SET identity_policy = policy
		WHERE w.workspace_id = target AND w.identity_policy <> policy;
	IF FOUND AND EXISTS (SELECT FROM cdp_data.identifier i WHERE i.workspace_id = target) THEN
		RAISE EXCEPTION 'the workspace has identifiers, so its identity policy can not change'
			USING ERRCODE = 'object_in_use', HINT = 'Set it before the first message.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION cdp.store_identity_policy(text, integer) FROM PUBLIC;
COMMENT ON FUNCTION cdp.store_identity_policy(text, integer) IS
'Second half of cdp.set_identity_policy, which has checked the arguments.';

CREATE FUNCTION cdp.set_identity_policy(policy text, workspace text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_set_identity_policy';
REVOKE ALL ON FUNCTION cdp.set_identity_policy(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.set_identity_policy(text, text) TO cdp_admin;
COMMENT ON FUNCTION cdp.set_identity_policy(text, text) IS
'What happens when an event would give a profile more values than a namespace allows: demote (the weakest identifier is left out) or components (limits do not count). For the caller''s workspace, or the one named. Raises when the workspace has identifiers already.';
