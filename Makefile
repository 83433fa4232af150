# cdp: a customer data platform inside PostgreSQL.
#
#   make, make install          build and install, for the server of PG_CONFIG
#   make WERROR=1               the same, warnings are errors
#   make help                   the other targets (test/test.mk)
#
# cdp.so is preloaded by the server; cdp_kafka.so (librdkafka) is loaded by
# source workers only.

EXTENSION = cdp
MODULE_big = cdp
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" cdp.control)

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config
OPTFLAGS ?= -O2

.DEFAULT_GOAL := all
-include test/test.mk

# the goals of test/test.mk need neither a server nor PGXS here
ifeq ($(filter $(OWN_GOALS),$(MAKECMDGOALS)),)

PG_MAJOR := $(shell $(PG_CONFIG) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
ifeq ($(shell test 0$(PG_MAJOR) -ge 15 && echo yes),)
$(error cdp needs PostgreSQL 15 or later with its server development files; $(PG_CONFIG) says "$(shell $(PG_CONFIG) --version)")
endif

# ---------------------------------------------------------------- what is built of what

KAFKA_OBJS = src/source/kafka.o src/source/kafka_ask.o
OBJS = $(patsubst %.c,%.o,$(filter-out $(KAFKA_OBJS:.o=.c),$(sort $(wildcard src/*.c src/*/*.c))))

# The order matters: each room may use what stands before it.
ROOMS = privacy source identity event profile
room_parts = $(foreach r,$(ROOMS),$(wildcard src/$(r)/$(1).sql) $(sort $(wildcard src/$(r)/$(1)_*.sql)))

# members of the extension
INSTALL_PARTS = src/install_begin.sql src/functions.sql $(call room_parts,functions) src/install_end.sql
# ordinary objects, made by cdp.setup()
SETUP_PARTS = src/setup_begin.sql $(call room_parts,tables) src/registry.sql src/secure.sql $(call room_parts,views) src/views.sql src/finish.sql

INSTALL_SQL = $(EXTENSION)--$(EXTVERSION).sql
SETUP_SQL = $(EXTENSION)-setup.sql
DATA_built = $(INSTALL_SQL) $(SETUP_SQL)

# ---------------------------------------------------------------- flags

WARNINGS = -Wall -Wextra -Wdeclaration-after-statement \
	-Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
ifdef WERROR
WARNINGS += -Werror
endif

PG_CPPFLAGS = -Isrc -MMD -MP $(shell $(PKG_CONFIG) --cflags libsodium)
PG_CFLAGS = $(OPTFLAGS) $(WARNINGS)
SHLIB_LINK = $(shell $(PKG_CONFIG) --libs libsodium)
KAFKA_CFLAGS = $(shell $(PKG_CONFIG) --cflags rdkafka)
KAFKA_LIBS = $(shell $(PKG_CONFIG) --libs rdkafka)

KAFKA_LIBRARY = $(if $(wildcard $(KAFKA_OBJS:.o=.c)),cdp_kafka.so)
EXTRA_CLEAN = $(INSTALL_SQL) $(SETUP_SQL) cdp_kafka.so $(KAFKA_OBJS) \
	$(wildcard src/*.d src/*/*.d src/*.o src/*/*.o)

# ---------------------------------------------------------------- the rules of PGXS

PGXS := $(shell $(PG_CONFIG) --pgxs)
# no bitcode: nothing of this is inlined into queries
override with_llvm = no
include $(PGXS)

all: $(KAFKA_LIBRARY)

$(KAFKA_OBJS): CPPFLAGS += $(KAFKA_CFLAGS)

cdp_kafka.so: $(KAFKA_OBJS)
	$(CC) $(CFLAGS) $(CFLAGS_SL) -shared -o $@ $^ $(LDFLAGS) $(KAFKA_LIBS)

install: install-kafka
.PHONY: install-kafka
install-kafka: $(KAFKA_LIBRARY) installdirs
	$(foreach l,$(KAFKA_LIBRARY),$(INSTALL_SHLIB) $(l) '$(DESTDIR)$(pkglibdir)/')

uninstall: uninstall-kafka
.PHONY: uninstall-kafka
uninstall-kafka:
	rm -f '$(DESTDIR)$(pkglibdir)/cdp_kafka.so'

$(INSTALL_SQL): $(INSTALL_PARTS) Makefile
	cat $(INSTALL_PARTS) > $@

$(SETUP_SQL): $(SETUP_PARTS) Makefile
	cat $(SETUP_PARTS) > $@

# a changed header builds what includes it again
-include $(OBJS:.o=.d) $(KAFKA_OBJS:.o=.d)

endif
