/*
 * inbox.c: INSERT and COPY into the view cdp.inbox.
 *
 * A BEFORE statement trigger pushes a frame, the INSTEAD OF row trigger adds
 * rows to the top frame, the AFTER statement trigger applies them and pops.
 * PostgreSQL fires both statement triggers exactly once a statement, also for
 * zero rows; a function in the statement that inserts too pushes a frame of
 * its own.  Rows are packed into blocks of 1 MB, per source.
 *
 * A frame remembers its nest level.  When a (sub)transaction is rolled back its
 * frames go with it: a caught exception loses exactly the rows of the
 * statement that failed.  Memory belongs to the transaction.
 *
 * A frame that reaches cdp.batch_bytes or cdp.batch_rows is applied from within
 * the row trigger and goes on: a long COPY runs in bounded memory, and holds
 * the locks of the people it touched until its transaction ends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "source/entrance.h"

#define BLOCK_BYTES (1024 * 1024)
#define FIRST_BLOCK_BYTES (64 * 1024)	/* most statements have one row */

/* rows of one source */
typedef struct Heap
{
	struct Heap *next;
	char	   *name;			/* NULL: the default source */
	CdpMessage *messages;
	int			n,
				max;
	Size		bytes;
	char	   *block;			/* being filled */
	Size		used,
				size;
} Heap;

typedef struct Frame
{
	struct Frame *below;
	int			nest_level;
	MemoryContext cxt;			/* of the frame */
	MemoryContext rows;			/* of the rows, emptied when they were applied */
	Heap	   *heaps;
} Frame;

static Frame *top = NULL;
static bool callbacks_registered = false;

/* ---------------------------------------------------------------- frames */

static void
drop_frames(int nest_level)
{
	while (top && top->nest_level >= nest_level)
	{
		Frame	   *f = top;

		top = f->below;
		MemoryContextDelete(f->cxt);
	}
}

static void
on_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		top = NULL;				/* the memory goes with the transaction */
}

static void
on_subxact_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		drop_frames(GetCurrentTransactionNestLevel());
}

static void
push_frame(void)
{
	MemoryContext cxt = AllocSetContextCreate(TopTransactionContext, "cdp inbox", ALLOCSET_SMALL_SIZES);
	Frame	   *f = MemoryContextAllocZero(cxt, sizeof(Frame));

	if (!callbacks_registered)
	{
		RegisterXactCallback(on_xact_end, NULL);
		RegisterSubXactCallback(on_subxact_end, NULL);
		callbacks_registered = true;
	}
	f->cxt = cxt;
	f->rows = AllocSetContextCreate(cxt, "cdp inbox rows", ALLOCSET_DEFAULT_SIZES);
	f->nest_level = GetCurrentTransactionNestLevel();
	f->below = top;
	top = f;
}

/* ---------------------------------------------------------------- rows */

static Heap *
heap_of(Frame *f, const char *name)
{
	Heap	   *h;

	for (h = f->heaps; h; h = h->next)
		if (name == NULL ? h->name == NULL : h->name && strcmp(h->name, name) == 0)
			return h;
	h = MemoryContextAllocZero(f->rows, sizeof(Heap));
	h->name = name ? MemoryContextStrdup(f->rows, name) : NULL;
	h->max = 64;
	h->messages = MemoryContextAlloc(f->rows, h->max * sizeof(CdpMessage));
	h->next = f->heaps;
	f->heaps = h;
	return h;
}

/* a copy of the bytes that lives as long as the frame's rows */
static CdpStr
pack(Frame *f, Heap *h, CdpStr s)
{
	char	   *to;

	if (s.len > FIRST_BLOCK_BYTES / 4)
		to = MemoryContextAllocHuge(f->rows, s.len);
	else
	{
		if (h->used + s.len > h->size)
		{
			h->size = h->block ? BLOCK_BYTES : FIRST_BLOCK_BYTES;
			h->block = MemoryContextAlloc(f->rows, h->size);
			h->used = 0;
		}
		to = h->block + h->used;
		h->used += s.len;
	}
	memcpy(to, s.s, s.len);
	return (CdpStr) {to, s.len};
}

static void
add_row(Frame *f, Heap *h, CdpStr body)
{
	if (h->n == h->max)
	{
		h->max *= 2;
		h->messages = repalloc_huge(h->messages, h->max * sizeof(CdpMessage));
	}
	cdp_entrance_message(&h->messages[h->n], pack(f, h, body), h->n + 1);
	h->n++;
	h->bytes += body.len;
}

/* apply what the frame holds; it may go on */
static void
apply_frame(Frame *f)
{
	for (Heap *h = f->heaps; h; h = h->next)
		if (h->n)
			cdp_apply(cdp_entrance_source(h->name), h->messages, h->n, NULL, 0, NULL, NULL);
	f->heaps = NULL;
	MemoryContextReset(f->rows);
}

/* ---------------------------------------------------------------- triggers */

PG_FUNCTION_INFO_V1(cdp_inbox_begin);
PG_FUNCTION_INFO_V1(cdp_inbox_row);
PG_FUNCTION_INFO_V1(cdp_inbox_end);

static TriggerData *
require_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function was not called by a trigger of cdp.inbox")));
	return (TriggerData *) fcinfo->context;
}

Datum
cdp_inbox_begin(PG_FUNCTION_ARGS)
{
	require_trigger(fcinfo);
	push_frame();
	PG_RETURN_POINTER(NULL);
}

Datum
cdp_inbox_row(PG_FUNCTION_ARGS)
{
	TriggerData *t = require_trigger(fcinfo);
	TupleDesc	desc = RelationGetDescr(t->tg_relation);
	bool		no_message,
				no_source;
	Datum		message = heap_getattr(t->tg_trigtuple, 1, desc, &no_message);
	Datum		source = heap_getattr(t->tg_trigtuple, 2, desc, &no_source);
	CdpStr		body = cdp_str(""); /* NULL: a blank line of COPY, set aside as one */
	ErrorContextCallback *context = error_context_stack;
	char	   *name = no_source ? NULL : TextDatumGetCString(source);
	Heap	   *h;

	if (top == NULL)
		elog(ERROR, "a row of cdp.inbox has no frame");
	if (!no_message)
	{
		text	   *m = DatumGetTextPP(message);

		body = (CdpStr) {VARDATA_ANY(m), VARSIZE_ANY_EXHDR(m)};
	}
	error_context_stack = NULL; /* COPY's would print the line into the log */
	h = heap_of(top, name);
	if (h->n == 0)
		cdp_entrance_source(name);	/* an unknown source is an error of this row */
	add_row(top, h, body);
	if (h->n >= cdp_batch_rows || h->bytes >= (Size) cdp_batch_bytes * 1024)
		apply_frame(top);
	error_context_stack = context;

	/*
	 * a copy: the executor frees the tuple that it formed only when it gets
	 * another one back
	 */
	return PointerGetDatum(heap_copytuple(t->tg_trigtuple));
}

Datum
cdp_inbox_end(PG_FUNCTION_ARGS)
{
	Frame	   *f = top;

	require_trigger(fcinfo);
	if (f == NULL)
		elog(ERROR, "the end of a statement on cdp.inbox has no frame");
	apply_frame(f);
	top = f->below;
	MemoryContextDelete(f->cxt);
	PG_RETURN_POINTER(NULL);
}
