/*
 * key.c: the key of the identifiers' hashes.
 *
 * 32 random bytes in a file of mode 0600 outside the data directory, so that a
 * base backup does not carry it beside the hashes.  Only cdp.setup() makes it,
 * and only when no database of the server knows a key yet; its mark (a SHA-256
 * digest) is in cdp_data.instance.  Each backend reads the file once, compares
 * it with the mark, and again when the instance row was written.  With a
 * missing or another file everything that hashes refuses: with another key
 * every known person would silently be a stranger (correctness.md R13).
 *
 * The first 16 bytes are the key of SipHash-2-4-128 for identifiers, links and
 * message ids, the last 16 that of pseudonyms: who sees pseudonyms can not ask
 * for the hash of a guessed value with the same key.
 */
#include "cdp.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cryptohash.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "key.h"

#define KEY_BYTES 32
#define KEY_FILE_MODE 0600
#define KEY_FILE_SUFFIX ".cdp_key"

static uint8 key[KEY_BYTES];
static bool key_ready = false;
static bool watching = false;

StaticAssertDecl(KEY_BYTES == 2 * crypto_shorthash_siphashx24_KEYBYTES, "two keys in one file");

/* ---------------------------------------------------------------- the file */

const char *
cdp_key_path(void)
{
	static char path[MAXPGPATH];

	if (cdp_key_file && *cdp_key_file)
		return cdp_key_file;
	snprintf(path, sizeof(path), "%s%s", DataDir, KEY_FILE_SUFFIX);
	return path;
}

static void
refuse_missing(const char *path)
{
	bool		denied = errno == EACCES;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("could not read the key file \"%s\": %m", path),
			 errdetail("Identifiers are stored as hashes made with this key; without it nobody can be recognised."),
			 errhint("%s", denied ? "Give the file to the server's user: chown, and chmod 0600." :
					 "Copy the file from where this database comes from, or from its backup, or set cdp.key_file.")));
}

bool
cdp_file_is_private(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
		(st.st_mode & (S_IRWXG | S_IRWXO)) == 0;
}

static void
check_safe(int fd, const char *path)
{
	if (!cdp_file_is_private(fd))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("key file \"%s\" is not private", path),
				 errdetail("It must be a file that belongs to the server's user, with permissions 0600.")));
}

/* Read the file into result; raises, naming it. */
static void
read_key(uint8 *result)
{
	const char *path = cdp_key_path();
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	uint8		buf[KEY_BYTES + 1];
	int			len;

	if (fd < 0)
		refuse_missing(path);
	check_safe(fd, path);
	len = read(fd, buf, sizeof(buf));
	if (len < 0)
		refuse_missing(path);
	CloseTransientFile(fd);
	if (len != KEY_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("key file \"%s\" does not hold %d bytes", path, KEY_BYTES)));
	memcpy(result, buf, KEY_BYTES);
	explicit_bzero(buf, sizeof(buf));
}

static void
write_key(int fd, const char *path)
{
	uint8		fresh[KEY_BYTES];

	if (!pg_strong_random(fresh, KEY_BYTES))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random key")));
	errno = 0;
	if (write(fd, fresh, KEY_BYTES) != KEY_BYTES || pg_fsync(fd) != 0)
	{
		int			save_errno = errno ? errno : ENOSPC;

		unlink(path);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write key file \"%s\": %m", path)));
	}
	explicit_bzero(fresh, sizeof(fresh));
}

static void
refuse_to_create(const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not create key file \"%s\": %m", path),
			 errhint("Set cdp.key_file to a place that the server may write to.")));
}

/* Written under another name first: nobody meets half a key, whoever is killed when. */
bool
cdp_key_create(void)
{
	const char *path = cdp_key_path();
	char	   *fresh = psprintf("%s.%d", path, MyProcPid);
	char		directory[MAXPGPATH];
	int			fd,
				error;

	if (access(path, F_OK) == 0)
		return false;
	fd = OpenTransientFilePerm(fresh, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY, KEY_FILE_MODE);
	if (fd < 0)
		refuse_to_create(fresh);
	write_key(fd, fresh);
	CloseTransientFile(fd);
	error = link(fresh, path) == 0 ? 0 : errno;
	unlink(fresh);
	if (error == EEXIST)
		return false;			/* set-up in another database was first */
	errno = error;
	if (error != 0)
		refuse_to_create(path);
	strlcpy(directory, path, sizeof(directory));
	get_parent_directory(directory);
	fsync_fname(*directory ? directory : ".", true);
	return true;
}

/* ---------------------------------------------------------------- the mark */

static void
sha256(const uint8 *data, size_t len, uint8 *digest)
{
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);

	if (ctx == NULL ||
		pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, data, len) < 0 ||
		pg_cryptohash_final(ctx, digest, PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(ctx);
}

static void
make_mark(const uint8 *from, CdpKeyMark *mark)
{
	uint8		again[PG_SHA256_DIGEST_LENGTH];

	sha256(from, KEY_BYTES, mark->check);
	sha256(mark->check, PG_SHA256_DIGEST_LENGTH, again);
	memcpy(mark->id.data, again, UUID_LEN);
}

void
cdp_key_mark(CdpKeyMark *mark)
{
	uint8		found[KEY_BYTES];

	read_key(found);
	make_mark(found, mark);
	explicit_bzero(found, sizeof(found));
}

typedef struct StoredMark
{
	bool		present;
	uint8		check[PG_SHA256_DIGEST_LENGTH];
} StoredMark;

static void
keep_mark(const CdpRow *row, void *arg)
{
	StoredMark *stored = arg;
	bool		isnull;
	bytea	   *check = DatumGetByteaPP(cdp_row_get(row, "key_check", &isnull));

	stored->present = VARSIZE_ANY_EXHDR(check) == PG_SHA256_DIGEST_LENGTH;
	if (stored->present)
		memcpy(stored->check, VARDATA_ANY(check), PG_SHA256_DIGEST_LENGTH);
}

static void
instance_changed(CdpTable t)
{
	if (t == CDP_T_INSTANCE)
		key_ready = false;
}

void
cdp_key_require(void)
{
	uint8		found[KEY_BYTES];
	CdpKeyMark	mark;
	StoredMark	stored = {false};

	if (key_ready)
		return;
	if (!watching)
	{
		cdp_on_table_change(instance_changed);
		watching = true;
	}
	cdp_scan_table(CDP_T_INSTANCE, keep_mark, &stored);
	read_key(found);
	make_mark(found, &mark);
	if (!stored.present || memcmp(stored.check, mark.check, sizeof(mark.check)) != 0)
	{
		explicit_bzero(found, sizeof(found));
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("key file \"%s\" holds another key than this database was made with", cdp_key_path()),
				 errhint("Copy the file from where this database comes from, or from its backup, or set cdp.key_file.")));
	}
	memcpy(key, found, KEY_BYTES);
	explicit_bzero(found, sizeof(found));
	key_ready = true;
}

/* ---------------------------------------------------------------- hashes */

void
cdp_key_hash128(uint64 out[2], const void *data, size_t len)
{
	if (unlikely(!key_ready))
		cdp_key_require();
	crypto_shorthash_siphashx24((unsigned char *) out, data, len, key);
}

uint64
cdp_key_pseudonym(int64 id)
{
	uint64		out[2];

	cdp_key_require();
	crypto_shorthash_siphashx24((unsigned char *) out, (const unsigned char *) &id, sizeof(id),
								key + crypto_shorthash_siphashx24_KEYBYTES);
	return out[0];
}

/* room for n more bytes */
static char *
hasher_reserve(CdpHasher *h, uint32 n)
{
	char	   *place;

	if (unlikely(h->len + n > h->cap))
	{
		uint32		cap = Max(h->cap * 2, h->len + n);

		if (h->buf == h->inl)
		{
			h->buf = palloc(cap);
			memcpy(h->buf, h->inl, h->len);
		}
		else
			h->buf = repalloc(h->buf, cap);
		h->cap = cap;
	}
	place = h->buf + h->len;
	h->len += n;
	return place;
}

void
cdp_hasher_init(CdpHasher *h, char domain, int32 workspace_id)
{
	h->buf = h->inl;
	h->len = 0;
	h->cap = sizeof(h->inl);
	*hasher_reserve(h, 1) = domain;
	memcpy(hasher_reserve(h, sizeof(workspace_id)), &workspace_id, sizeof(workspace_id));
}

void
cdp_hasher_bytes(CdpHasher *h, const void *p, uint32 len)
{
	memcpy(hasher_reserve(h, sizeof(len)), &len, sizeof(len));
	if (len > 0)
		memcpy(hasher_reserve(h, len), p, len);
}

void
cdp_hasher_int64(CdpHasher *h, int64 v)
{
	memcpy(hasher_reserve(h, sizeof(v)), &v, sizeof(v));
}

void
cdp_hasher_done(CdpHasher *h, uint64 out[2])
{
	cdp_key_hash128(out, h->buf, h->len);
	if (h->buf != h->inl)
		pfree(h->buf);
}
