/*
 * columns.h: places and types of the columns of suppression (tables_erasure.sql).
 */
#ifndef CDP_PRIVACY_COLUMNS_H
#define CDP_PRIVACY_COLUMNS_H

enum
{
	TOKEN_ID, TOKEN_NOT_BEFORE, TOKEN_WORKSPACE, TOKEN_CHECK, TOKEN_COLUMNS
};

#define TOKEN_TYPES INT8OID, TIMESTAMPTZOID, INT4OID, INT4OID

#endif							/* CDP_PRIVACY_COLUMNS_H */
