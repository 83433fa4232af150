/*
 * fuzz_alloc.c: see fuzz_alloc.h.  What the server has allocated is given back
 * to the server: everything of ours stands in a list, the newest last.
 */
#include "postgres.h"

#undef pfree

static void **blocks = NULL;
static int	nblocks = 0;
static int	maxblocks = 0;

/* place in the list, -1: the server's */
static int
find(const void *p)
{
	for (int i = nblocks - 1; i >= 0; i--)
		if (blocks[i] == p)
			return i;
	return -1;
}

void *
unit_palloc(Size size)
{
	if (nblocks == maxblocks)
	{
		maxblocks = Max(maxblocks * 2, 1024);
		blocks = realloc(blocks, maxblocks * sizeof(void *));
	}
	return blocks[nblocks++] = malloc(Max(size, 1));
}

void *
unit_palloc0(Size size)
{
	return memset(unit_palloc(size), 0, size);
}

void *
unit_context_alloc(MemoryContext context, Size size)
{
	return unit_palloc(size);
}

void *
unit_context_alloc0(MemoryContext context, Size size)
{
	return unit_palloc0(size);
}

void *
unit_repalloc(void *p, Size size)
{
	int			i = find(p);

	if (i < 0)
		elog(ERROR, "only what the decoders allocate grows");
	return blocks[i] = realloc(p, size);
}

void
unit_pfree(void *p)
{
	int			i = find(p);

	if (i < 0)
	{
		pfree(p);
		return;
	}
	free(p);
	memmove(&blocks[i], &blocks[i + 1], (--nblocks - i) * sizeof(void *));
}

int
unit_mark(void)
{
	return nblocks;
}

void
unit_free_to(int mark)
{
	while (nblocks > mark)
		free(blocks[--nblocks]);
}
