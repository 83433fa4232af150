/*
 * secrets.c: the file that holds the passwords of Kafka sources, and the
 * directory of their certificates.
 *
 *   # a line for each thing, of the form  name.option = value
 *   web.brokers = broker1:9093,broker2:9093
 *   web.sasl.password = correct horse
 *   web.ssl.key.password = battery staple
 *
 * The name is the source's, or the one that its option "secret" says.  The
 * brokers are those that may get the secret: who may alter a source could
 * otherwise send the password to a broker of his own.  Blanks around name and
 * value do not belong to them; there are no quotes.
 *
 * Read by source workers only, when they connect; what was read is wiped as
 * soon as the Kafka client has its copy.  The file must be private, as the key
 * file, and is refused as a whole when a line is of another form or the last
 * one has no end, since half of a file may hold half of a password.  No error
 * text quotes anything that stands in it.
 */
#include "cdp.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "key.h"
#include "source/source.h"

#define MAX_FILE_BYTES	(64 * 1024)
#define SECRETS_FILE_SUFFIX ".cdp_secrets"
#define CERTIFICATE_DIRECTORY_SUFFIX ".cdp_certificates"

/* what a key may end with, and where its value belongs */
static const struct
{
	const char *ending;
	size_t		place;
}			options[] = {
	{".brokers", offsetof(CdpSecrets, brokers)},
	{".sasl.password", offsetof(CdpSecrets, sasl_password)},
	{".ssl.key.password", offsetof(CdpSecrets, key_password)},
};

const char *
cdp_secrets_path(void)
{
	static char path[MAXPGPATH];

	if (cdp_secrets_file && *cdp_secrets_file)
		return cdp_secrets_file;
	snprintf(path, sizeof(path), "%s%s", DataDir, SECRETS_FILE_SUFFIX);
	return path;
}

const char *
cdp_certificates_path(void)
{
	static char path[MAXPGPATH];

	if (cdp_certificate_directory && *cdp_certificate_directory)
		strlcpy(path, cdp_certificate_directory, sizeof(path));
	else
		snprintf(path, sizeof(path), "%s%s", DataDir, CERTIFICATE_DIRECTORY_SUFFIX);
	canonicalize_path(path);
	return path;
}

/* ---------------------------------------------------------------- the file */

/* Its bytes in s->buf, with a zero byte behind them; NULL, or what is wrong. */
static const char *
read_all(CdpSecrets *s, int fd, const char *path)
{
	ssize_t		n;

	if (!cdp_file_is_private(fd))
		return psprintf("secrets file \"%s\" is not private: it must belong to the server's user, with permissions 0600", path);
	s->buf = palloc(MAX_FILE_BYTES + 1);
	s->len = 0;
	while ((n = read(fd, s->buf + s->len, MAX_FILE_BYTES + 1 - s->len)) > 0)
		s->len += n;
	if (n < 0)
		return psprintf("could not read secrets file \"%s\": %m", path);
	if (s->len > MAX_FILE_BYTES)
		return psprintf("secrets file \"%s\" is longer than %d bytes", path, MAX_FILE_BYTES);
	if (s->len > 0 && s->buf[s->len - 1] != '\n')
		return psprintf("the last line of secrets file \"%s\" has no end: the file may be incomplete", path);
	s->buf[s->len] = '\0';
	return NULL;
}

/* Cuts blanks off both ends. */
static char *
trim(char *text)
{
	char	   *end = text + strlen(text);

	while (isspace((unsigned char) *text))
		text++;
	while (end > text && isspace((unsigned char) end[-1]))
		*--end = '\0';
	return text;
}

/* Which option a key sets, behind a name; -1: none. */
static int
option_of(const char *key)
{
	size_t		len = strlen(key);

	for (int i = 0; i < lengthof(options); i++)
	{
		size_t		n = strlen(options[i].ending);

		if (len > n && strcmp(key + len - n, options[i].ending) == 0)
			return i;
	}
	return -1;
}

/* Keeps the value if the line is about s->name; NULL, or what is wrong. */
static const char *
take_line(CdpSecrets *s, char *line, int number, const char *path)
{
	char	   *value = strchr(line, '=');
	char	   *key = trim(line);
	char	  **place;
	int			o;

	if (key[0] == '\0' || key[0] == '#')
		return NULL;
	if (value)
		*value++ = '\0';
	key = trim(key);
	value = value ? trim(value) : key + strlen(key);
	o = *value ? option_of(key) : -1;
	if (o < 0)
		return psprintf("line %d of secrets file \"%s\" is not \"name.option = value\" with the option"
						" brokers, sasl.password or ssl.key.password", number, path);
	if (strcmp(key, psprintf("%s%s", s->name, options[o].ending)) != 0)
		return NULL;
	place = (char **) ((char *) s + options[o].place);
	if (*place)
		return psprintf("line %d of secrets file \"%s\" sets \"%s\" a second time", number, path, key);
	*place = value;
	return NULL;
}

static const char *
take_lines(CdpSecrets *s, const char *path)
{
	const char *error = NULL;
	char	   *next;
	int			number = 1;

	if (strlen(s->buf) != s->len)
		return psprintf("secrets file \"%s\" is not a text", path);
	for (char *line = s->buf; error == NULL && *line; line = next)
	{
		next = strchr(line, '\n') + 1;
		next[-1] = '\0';
		error = take_line(s, line, number++, path);
	}
	return error;
}

/* Reads the file if there is one; NULL, or what is wrong. */
static const char *
read_file(CdpSecrets *s, const char *path)
{
	const char *error;
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);

	if (fd < 0)
		return errno == ENOENT ? NULL : psprintf("could not read secrets file \"%s\": %m", path);
	error = read_all(s, fd, path);
	CloseTransientFile(fd);
	return error ? error : take_lines(s, path);
}

/* ---------------------------------------------------------------- who may have it */

/* The next word of a list with commas, without blanks around it; NULL: there is none. */
static const char *
next_broker(char **list)
{
	char	   *word;

	while ((word = strsep(list, ",")) != NULL)
	{
		word = trim(word);
		if (*word)
			return word;
	}
	return NULL;
}

static bool
names_broker(const char *list, const char *broker)
{
	char	   *rest = pstrdup(list);
	const char *word;

	while ((word = next_broker(&rest)) != NULL)
		if (strcmp(word, broker) == 0)
			return true;
	return false;
}

static const char *
absence(const CdpSecrets *s, const char *option, const char *path)
{
	return psprintf("no \"%s.%s\" in secrets file \"%s\"%s", s->name, option, path,
					s->buf ? "" : ", which does not exist");
}

/* Is what is needed there, and may these brokers have it?  NULL, or why not. */
static const char *
check(const CdpSecrets *s, const char *brokers, bool password, const char *path)
{
	char	   *rest = pstrdup(brokers);
	const char *broker;

	if (password && s->sasl_password == NULL)
		return absence(s, "sasl.password", path);
	if (s->sasl_password == NULL && s->key_password == NULL)
		return NULL;
	if (s->brokers == NULL)
		return absence(s, "brokers", path);
	while ((broker = next_broker(&rest)) != NULL)
		if (!names_broker(s->brokers, broker))
			return psprintf("\"%s.brokers\" in secrets file \"%s\" does not name \"%s\"", s->name, path, broker);
	return NULL;
}

const char *
cdp_secrets_read(CdpSecrets *s, const char *name, const char *brokers, bool password)
{
	const char *path = cdp_secrets_path();
	const char *error;

	*s = (CdpSecrets) {.name = name};
	error = read_file(s, path);
	if (error == NULL)
		error = check(s, brokers, password, path);
	if (error)
		cdp_secrets_wipe(s);
	return error;
}

void
cdp_secrets_wipe(CdpSecrets *s)
{
	if (s->buf)
	{
		explicit_bzero(s->buf, MAX_FILE_BYTES + 1);
		pfree(s->buf);
	}
	*s = (CdpSecrets) {.name = s->name};
}
