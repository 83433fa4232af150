/*
 * key.h: what only cdp.setup() may do with the key, and what its file has in
 * common with that of the secrets.
 */
#ifndef CDP_KEY_H
#define CDP_KEY_H

#include "cdp.h"

#include "common/sha2.h"
#include "utils/uuid.h"

/* what cdp_data.instance says of the key */
typedef struct CdpKeyMark
{
	pg_uuid_t	id;
	uint8		check[PG_SHA256_DIGEST_LENGTH];
} CdpKeyMark;

extern const char *cdp_key_path(void);

/* an open file is a regular one of the server's user, which nobody else may read or write */
extern bool cdp_file_is_private(int fd);

/* make the file if there is none; false: there was one */
extern bool cdp_key_create(void);

/* read the file, whatever the instance says; raises when it is missing or unsafe */
extern void cdp_key_mark(CdpKeyMark *mark);

/* keyed hash for names that people see in place of values; another key than the identifiers' */
extern uint64 cdp_key_pseudonym(int64 id);

#endif							/* CDP_KEY_H */
