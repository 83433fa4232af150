/*
 * times.c: time stamps of messages, and the times of an event.
 *
 * The parser is our own: PostgreSQL's throws, depends on settings and takes
 * much that is no time stamp of a message ("yesterday").
 *
 * The rules of cdp_event_times are features.md D.3 and DESIGN 9.6: everything
 * is a function of the message alone, never of the consumer's clock, so that
 * replay gives the same event.  The one exception is a message from SQL
 * without any time.  Accepted as imprecise: a device whose clock is off by
 * less than half a quantum keeps its own time.
 */
#include "postgres.h"

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "event/event.h"

#define SKEW_QUANTUM	(5 * USECS_PER_MINUTE)
#define FRACTION_DIGITS_MAX 9
#define EPOCH_DIGITS_MIN 10		/* seconds */
#define EPOCH_DIGITS_MS 12		/* from here on milliseconds */
#define EPOCH_DIGITS_MAX 13
#define UNIX_EPOCH	(-((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY))

typedef struct Cursor
{
	const char *p,
			   *end;
} Cursor;

/* exactly n digits */
static bool
take_digits(Cursor *c, int n, int *out)
{
	int			v = 0;

	if (c->end - c->p < n)
		return false;
	for (int i = 0; i < n; i++)
	{
		unsigned	digit = (unsigned char) c->p[i] - '0';

		if (digit > 9)
			return false;
		v = v * 10 + digit;
	}
	c->p += n;
	*out = v;
	return true;
}

static bool
take_char(Cursor *c, char ch)
{
	if (c->p == c->end || *c->p != ch)
		return false;
	c->p++;
	return true;
}

static bool
take_date(Cursor *c, int64 *days)
{
	static const uint8 lengths[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int			y,
				m,
				d;
	bool		leap;

	if (!take_digits(c, 4, &y) || !take_char(c, '-') || !take_digits(c, 2, &m)
		|| !take_char(c, '-') || !take_digits(c, 2, &d))
		return false;
	if (y < 1 || m < 1 || m > 12 || d < 1)
		return false;
	leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
	if (d > lengths[m - 1] + (m == 2 && leap))
		return false;
	*days = (int64) date2j(y, m, d) - POSTGRES_EPOCH_JDATE;
	return true;
}

/* .d to .ddddddddd, rounded half up to microseconds */
static bool
take_fraction(Cursor *c, int64 *usec)
{
	int64		v = 0;
	int			n = 0;

	for (; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++)
	{
		if (++n > FRACTION_DIGITS_MAX)
			return false;
		v = v * 10 + *c->p - '0';
	}
	if (n == 0)
		return false;
	for (; n < FRACTION_DIGITS_MAX; n++)
		v *= 10;
	*usec += (v + 500) / 1000;
	return true;
}

/* hh:mm[:ss[.f]]; a leap second is the next second */
static bool
take_time_of_day(Cursor *c, int64 *usec)
{
	int			h,
				m,
				s = 0;

	if (!take_digits(c, 2, &h) || !take_char(c, ':') || !take_digits(c, 2, &m))
		return false;
	if (take_char(c, ':') && !take_digits(c, 2, &s))
		return false;
	if (h > 23 || m > 59 || s > 60)
		return false;
	*usec = ((int64) h * SECS_PER_HOUR + m * SECS_PER_MINUTE + s) * USECS_PER_SEC;
	return !take_char(c, '.') || take_fraction(c, usec);
}

/* nothing, Z, or ±hh, ±hhmm, ±hh:mm */
static bool
take_zone(Cursor *c, int64 *usec)
{
	int			sign;
	int			h,
				m = 0;

	*usec = 0;
	if (c->p == c->end || take_char(c, 'Z') || take_char(c, 'z'))
		return true;
	sign = *c->p == '-' ? -1 : 1;
	if (!take_char(c, '+') && !take_char(c, '-'))
		return false;
	if (!take_digits(c, 2, &h))
		return false;
	if (c->p < c->end)
	{
		take_char(c, ':');
		if (!take_digits(c, 2, &m))
			return false;
	}
	*usec = sign * (h * (int64) SECS_PER_HOUR + m * SECS_PER_MINUTE) * USECS_PER_SEC;
	return h <= 23 && m <= 59;
}

static bool
parse_iso(Cursor c, TimestampTz *out)
{
	int64		days,
				usec = 0,
				zone = 0;

	if (!take_date(&c, &days))
		return false;
	if (c.p < c.end)
	{
		if (!take_char(&c, 'T') && !take_char(&c, ' ') && !take_char(&c, 't'))
			return false;
		if (!take_time_of_day(&c, &usec) || !take_zone(&c, &zone))
			return false;
	}
	*out = days * USECS_PER_DAY + usec - zone;
	return c.p == c.end;
}

static bool
parse_epoch(Cursor c, TimestampTz *out)
{
	int			ndigits = c.end - c.p;
	int64		v = 0;

	if (ndigits < EPOCH_DIGITS_MIN || ndigits > EPOCH_DIGITS_MAX)
		return false;
	for (; c.p < c.end; c.p++)
	{
		if (*c.p < '0' || *c.p > '9')
			return false;
		v = v * 10 + *c.p - '0';
	}
	*out = UNIX_EPOCH + v * (ndigits >= EPOCH_DIGITS_MS ? 1000 : USECS_PER_SEC);
	return true;
}

static bool
is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

bool
cdp_parse_time(CdpStr s, TimestampTz *out, CdpReason *why)
{
	Cursor		c = {s.s, s.s + s.len};

	while (c.p < c.end && is_blank(*c.p))
		c.p++;
	while (c.p < c.end && is_blank(c.end[-1]))
		c.end--;
	*why = CDP_REASON_INVALID_TIME;
	if (!parse_iso(c, out) && !parse_epoch(c, out))
		return false;
	*why = CDP_REASON_TIME_TOO_OLD;
	return *out >= UNIX_EPOCH;
}

/* ---------------------------------------------------------------- the times of an event */

static inline bool
is_time(TimestampTz t)
{
	return t != CDP_NO_TIME;
}

static TimestampTz
received_at(const CdpSource *source, const CdpEvent *ev)
{
	if (source->trust_received_at && is_time(ev->payload_received_at))
		return ev->payload_received_at;
	if (is_time(ev->msg->record_time))
		return ev->msg->record_time;
	if (is_time(ev->payload_received_at))
		return ev->payload_received_at;
	if (is_time(ev->sent_at))
		return ev->sent_at;
	if (is_time(ev->original_at))
		return ev->original_at;
	return cdp_clock();
}

/* nearest multiple of the quantum, halves away from zero */
static int64
round_to_quantum(int64 skew)
{
	int64		half = skew < 0 ? -(SKEW_QUANTUM / 2) : SKEW_QUANTUM / 2;

	return (skew + half) / SKEW_QUANTUM * SKEW_QUANTUM;
}

/* when it happened, by the clock of those who received it */
static TimestampTz
corrected(CdpSkew skew, const CdpEvent *ev)
{
	TimestampTz original = is_time(ev->original_at) ? ev->original_at : ev->received_at;
	TimestampTz sent = is_time(ev->sent_at) ? ev->sent_at : ev->received_at;

	switch (skew)
	{
		case CDP_SKEW_SEGMENT:
			return ev->received_at - (sent - original);
		case CDP_SKEW_QUANTUM:
			/* without both stamps of the device nothing is known of its clock */
			if (is_time(ev->original_at) && is_time(ev->sent_at) && sent >= original)
				return original + round_to_quantum(ev->received_at - sent);
			return original;
		case CDP_SKEW_NONE:
			return original;
	}
	return original;
}

void
cdp_event_times(const CdpSource *source, CdpEvent *ev)
{
	ev->received_at = received_at(source, ev);
	ev->occurred_at = corrected(source->skew, ev);
	ev->future_clamped = ev->occurred_at - ev->received_at > source->max_future;
	if (ev->future_clamped)
		ev->occurred_at = ev->received_at;
	ev->evidence_at = Min(ev->occurred_at, ev->received_at);
	if (is_time(ev->original_at))
		ev->stamp = ev->original_at;
	else if (is_time(ev->msg->record_time))
		ev->stamp = ev->msg->record_time;
	else
		ev->stamp = ev->received_at;
}
