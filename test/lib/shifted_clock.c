/*
 * shifted_clock.c: preloaded into a server under test, shifts its clocks.
 *
 * The file that CDP_TEST_CLOCK names holds two 64-bit numbers of microseconds.
 * The first is added to the wall clock: who writes another one sets the clock
 * of all processes at once.  The second is added to that and to the clocks that
 * nobody can set: time that has passed, although nobody waited for it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SET 0					/* of the shifts */
#define PASSED 1
#define SHIFTS 2

static const volatile int64_t *shift;

static int64_t
microseconds(int which)
{
	if (shift == NULL)
	{
		const char *path = getenv("CDP_TEST_CLOCK");
		int			fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
		void	   *p = fd < 0 ? MAP_FAILED : mmap(NULL, SHIFTS * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);

		if (fd >= 0)
			close(fd);
		if (p == MAP_FAILED)
			abort();
		shift = p;
	}
	return shift[which];
}

int
clock_gettime(clockid_t id, struct timespec *ts)
{
	int			rc = (int) syscall(SYS_clock_gettime, id, ts);
	bool		wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
	bool		runs = id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_MONOTONIC_RAW || id == CLOCK_BOOTTIME;
	int64_t		us;

	if (rc != 0 || !(wall || runs))
		return rc;
	us = (int64_t) ts->tv_sec * 1000000 + ts->tv_nsec / 1000 + microseconds(PASSED) + (wall ? microseconds(SET) : 0);
	ts->tv_sec = us / 1000000;
	ts->tv_nsec = us % 1000000 * 1000 + ts->tv_nsec % 1000;
	return 0;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec ts;

	(void) tz;
	if (clock_gettime(CLOCK_REALTIME, &ts) != 0)
		return -1;
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *t)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (t)
		*t = ts.tv_sec;
	return ts.tv_sec;
}

int
timespec_get(struct timespec *ts, int base)
{
	return clock_gettime(CLOCK_REALTIME, ts) == 0 ? base : 0;
}

/* The kernel, which waits, knows the real time only. */
static struct timespec
real_time(const struct timespec *until, bool wall)
{
	struct timespec ts;
	int64_t		us = (int64_t) until->tv_sec * 1000000 + until->tv_nsec / 1000 - microseconds(PASSED) - (wall ? microseconds(SET) : 0);

	ts.tv_sec = us / 1000000;
	ts.tv_nsec = us % 1000000 * 1000 + until->tv_nsec % 1000;
	return ts;
}

/* how librdkafka reads the clock for it depends on its version */
int
cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until)
{
	static int	(*real) (cnd_t *, mtx_t *, const struct timespec *);
	struct timespec ts = real_time(until, true);

	if (real == NULL)
		real = (int (*) (cnd_t *, mtx_t *, const struct timespec *)) dlsym(RTLD_NEXT, "cnd_timedwait");
	return real(cond, mutex, &ts);
}

/* which clock the condition has is not asked: the time since 1970 is far from the time since the machine started */
int
pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
	bool		wall = until->tv_sec > time(NULL) / 2;
	struct timespec ts = real_time(until, wall);

	return pthread_cond_clockwait(cond, mutex, wall ? CLOCK_REALTIME : CLOCK_MONOTONIC, &ts);
}

int
pthread_timedjoin_np(pthread_t thread, void **result, const struct timespec *until)
{
	struct timespec ts = real_time(until, true);

	return pthread_clockjoin_np(thread, result, CLOCK_REALTIME, &ts);
}
