/*
 * fuzz_alloc.h: the decoders' memory from malloc, each piece on its own, so
 * that a sanitizer sees who writes or reads beyond it.  Included before all
 * else (gcc -include): prototypes and calls are renamed alike.
 */
#include "postgres.h"

#define palloc unit_palloc
#define palloc0 unit_palloc0
#define pfree unit_pfree
#define repalloc unit_repalloc
#define repalloc_huge unit_repalloc
#define MemoryContextAlloc unit_context_alloc
#define MemoryContextAllocHuge unit_context_alloc
#define MemoryContextAllocZero unit_context_alloc0

extern void *unit_palloc(Size size);
extern void *unit_palloc0(Size size);
extern void unit_pfree(void *p);
extern void *unit_repalloc(void *p, Size size);
extern void *unit_context_alloc(MemoryContext context, Size size);
extern void *unit_context_alloc0(MemoryContext context, Size size);

/* how much there is; free what came after it */
extern int	unit_mark(void);
extern void unit_free_to(int mark);
