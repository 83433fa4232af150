-- Namespaces and the identity policy.

CREATE FUNCTION cdp.make_default_namespaces(target integer) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
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
