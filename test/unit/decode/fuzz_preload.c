/*
 * fuzz_preload.c: with gcc's libasan preloaded, programs that bind a text
 * domain wait for ever at their start: the sanitizer's own start leaves glibc's
 * lock of it in a state that nobody can take.  Nobody wants translations here.
 */
extern char *bindtextdomain(const char *domain, const char *directory);
extern char *bind_textdomain_codeset(const char *domain, const char *codeset);
extern char *textdomain(const char *domain);

char *
bindtextdomain(const char *domain, const char *directory)
{
	return (char *) directory;
}

char *
bind_textdomain_codeset(const char *domain, const char *codeset)
{
	return (char *) codeset;
}

char *
textdomain(const char *domain)
{
	return (char *) domain;
}
